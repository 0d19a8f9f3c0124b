"""The source of `app` as syntax trees, for rules that no linter has."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "app"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """One file; `path` is relative to the repository."""

    path: Path
    tree: ast.Module


def list_modules(folder: Path = APP) -> list[Module]:
    return [
        Module(file.relative_to(ROOT), ast.parse(file.read_text(), filename=str(file)))
        for file in sorted(folder.rglob("*.py"))
    ]


def list_functions(tree: ast.Module) -> Iterator[Function]:
    """Module-level functions and methods; those inside them belong to them."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from (inner for inner in node.body if isinstance(inner, Function))


def first_parameter(function: Function) -> ast.arg | None:
    """The first one that is not `self` or `cls`."""
    parameters = [*function.args.posonlyargs, *function.args.args]
    named = [parameter for parameter in parameters if parameter.arg not in {"self", "cls"}]
    return named[0] if named else None


def annotation_of(parameter: ast.arg) -> str:
    return ast.unparse(parameter.annotation).strip("'\"") if parameter.annotation else ""
