# Needs make and Python 3.11 or newer. Everything is installed into .venv from the locks.
.POSIX:
.DEFAULT_GOAL := help
.PHONY: help run test check format bench bench-search bench-protection bench-files storm faults promises fuzz docs audit sbom mutants coverage migration lock clean runtime dev

runtime:
	@sh scripts/venv.sh requirements.txt

dev:
	@sh scripts/venv.sh requirements-dev.txt

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' Makefile

run: runtime ## set up all that is needed and serve http://localhost:8000
	@.venv/bin/python -m app

test: dev ## run the tests; PostgreSQL and Redis are started by them (args="-k name")
	@.venv/bin/python -m pytest $(PARALLEL) $(args)

# The servers of the tests wait for each other now and then: one process more than there are cores.
PARALLEL = --numprocesses=$$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses=4 --dist=loadscope --no-loadscope-reorder

check: dev ## format, lint, types and the import contract, without changing a file
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/lint-imports --no-logo
	.venv/bin/bandit --quiet --configfile pyproject.toml --recursive app clients/python/src migrations scripts

format: dev ## let ruff format the code and mend what it can
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

bench: dev ## measure a real server under load, on SQLite and on PostgreSQL with Redis
	@PYTHONPATH=clients/python/src .venv/bin/python -m benchmarks.run $(args)

storm: dev ## measure what 2,000 clients that come back at once cost, on both databases
	@PYTHONPATH=clients/python/src .venv/bin/python -m benchmarks.storm $(args)

bench-search: dev ## measure search and import among a million accounts, on both databases
	@PYTHONPATH=clients/python/src .venv/bin/python -m benchmarks.search $(args)

bench-protection: dev ## measure what encryption, limits and headers cost, on both databases
	@PYTHONPATH=clients/python/src .venv/bin/python -m benchmarks.protection $(args)

bench-files: dev ## measure files in and out, on disk and on S3, beside nginx and Starlette
	@PYTHONPATH=clients/python/src .venv/bin/python -m benchmarks.files $(args)

fuzz: dev ## the generated tests with full numbers of examples; takes long
	@HYPOTHESIS_PROFILE=fuzz .venv/bin/python -m pytest tests/unit tests/contract $(args)

faults: dev ## 200 schedules of faults on real servers, and the planted bugs; an hour (args="--seed 17")
	@PYTHONPATH=clients/python/src .venv/bin/python -m tests.faults $(args)

promises: dev ## the promises that no schedule tests, with full numbers; takes hours (args="-k retries")
	@PROMISES=full .venv/bin/python -m pytest tests/faults/promises $(args)

docs: dev ## write env.example and docs/problems.md anew from the code, and the table of docs/security.md
	@.venv/bin/python -m app.admin env-example > .docs.tmp && mv .docs.tmp env.example
	@.venv/bin/python -m app.admin problems > .docs.tmp && mv .docs.tmp docs/problems.md
	@.venv/bin/python -m scripts.asvs

audit: dev ## ask the advisory databases about every locked dependency
	.venv/bin/pip-audit --require-hashes --disable-pip -r requirements-dev.txt

sbom: dev ## print the bill of materials of what the server ships (CycloneDX)
	@.venv/bin/python -m scripts.sbom

mutants: dev ## change every rule of access in turn: do the tests notice? half an hour
	.venv/bin/mutmut run
	@.venv/bin/python -m scripts.mutants

coverage: dev ## branches of sign-in, sessions, ciphers and permissions that tests reach
	.venv/bin/coverage erase
	COVERAGE_FILE="$$PWD/.coverage" COVERAGE_PROCESS_START="$$PWD/pyproject.toml" \
		.venv/bin/python -m pytest $(PARALLEL) $(COVERED) $(args)
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report

COVERED = tests/unit/features tests/unit/infra tests/features/auth tests/features/chats tests/features/users \
	tests/features/messages tests/security/test_second_factor.py tests/security/test_browser_mode.py \
	tests/security/test_ciphertext.py tests/security/test_sealed_columns.py tests/security/test_changing_keys.py \
	tests/security/test_backup.py tests/security/test_safe_start.py tests/unit/test_start_checks.py

migration: dev ## a new migration from the models: make migration name=add_something
	@test -n "$(name)" || { echo "usage: make migration name=add_something" >&2; exit 2; }
	.venv/bin/alembic upgrade head
	.venv/bin/alembic revision --autogenerate -m "$(name)"

lock: dev ## write the locks anew from pyproject.toml (args="--upgrade")
	.venv/bin/uv pip compile $(LOCK) $(args) -o requirements.txt pyproject.toml
	.venv/bin/uv pip compile $(LOCK) $(args) -o requirements-dev.txt -c requirements.txt --group dev pyproject.toml
	.venv/bin/uv pip compile $(LOCK) $(args) -o requirements-redis.txt -c requirements-dev.txt --group redis

LOCK = --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"

clean: ## remove .venv and caches; var/ with its data and keys stays
	rm -rf .venv mutants .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
