"""Who owns a transaction can be seen from the first parameter; see docs/decisions/0002."""

import ast
from collections.abc import Iterator

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
