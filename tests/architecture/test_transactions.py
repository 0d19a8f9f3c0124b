"""Who owns a transaction can be seen from the first parameter; see docs/decisions/0002."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from tests.architecture.source import (
    APP,
    Function,
    Module,
    annotation_of,
    first_parameter,
    list_functions,
    list_modules,
)

_TYPES = {"db": "Database", "tx": "Tx"}


def functions_that_take(name: str) -> Iterator[tuple[Module, Function]]:
    for module in list_modules(APP / "features"):
        for function in list_functions(module.tree):
            parameter = first_parameter(function)
            if parameter is not None and parameter.arg == name:
                yield module, function


def calls_in(function: Function) -> Iterator[ast.Call]:
    return (node for node in ast.walk(function) if isinstance(node, ast.Call))


def test_the_names_mean_the_types() -> None:
    wrong: list[str] = []
    for module in list_modules(APP / "features"):
        for function in list_functions(module.tree):
            for parameter in (*function.args.args, *function.args.kwonlyargs):
                expected = _TYPES.get(parameter.arg)
                if expected and annotation_of(parameter) != expected:
                    wrong.append(f"{module.path}:{parameter.lineno} {function.name}")
    assert wrong == []


def test_a_function_that_gets_a_transaction_never_opens_or_ends_one() -> None:
    wrong = [
        f"{module.path}:{call.lineno} {function.name}"
        for module, function in functions_that_take("tx")
        for call in calls_in(function)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in {"commit", "rollback", "write", "write_grouped"}
        and ast.unparse(call.func.value).endswith("db")
    ]
    assert wrong == []


def test_what_opens_a_transaction_calls_nothing_else_that_opens_one() -> None:
    """A thin function may choose between use cases, but then it opens none of its own."""
    wrong: list[str] = []
    for module, function in functions_that_take("db"):
        calls = [ast.unparse(call) for call in calls_in(function)]
        opens = [call for call in calls if call.startswith(("db.write", "db.read"))]
        passes_on = [
            ast.unparse(call.func)
            for call in calls_in(function)
            if call.args and ast.unparse(call.args[0]) == "db"
        ]
        if opens and passes_on:
            wrong.append(f"{module.path}:{function.lineno} {function.name} calls {passes_on}")
    assert wrong == []


# Work that nobody waits for: beside a busy server, and with much to read, it may take longer than a call.
_LONG_WORK = (
    "app/admin/*.py",
    "app/features/*/activity.py",
    "app/features/*/erase.py",
    "app/features/*/jobs.py",
    "app/features/*/personal_data.py",
    "app/features/*/prune.py",
    "app/features/*/rebuild_index.py",
    "app/features/*/tell_counts.py",
    "app/features/*/verify.py",
    "app/infra/cipher/rewrite.py",
    "app/infra/cipher/rotation.py",
    "app/infra/database/prune.py",
    "app/transport/personal_data.py",
)


def test_long_work_names_how_long_each_transaction_may_take() -> None:
    found, unnamed = 0, list[str]()
    for module in list_modules(APP):
        if not any(Path(module.path).match(pattern) for pattern in _LONG_WORK):
            continue
        for call in ast.walk(module.tree):
            if not _opens_transaction(call):
                continue
            found += 1
            if "timeout_seconds" not in [keyword.arg for keyword in call.keywords]:
                unnamed.append(f"{module.path}:{call.lineno}")
    assert unnamed == []
    assert found > 50


def _opens_transaction(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"read", "write"}
        and ast.unparse(node.func.value).rpartition(".")[2] in {"db", "database"}
    )
