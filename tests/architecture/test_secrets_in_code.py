"""What must never be written: a secret compared by `==`, a slow derivation outside the start."""

import ast
import re
from collections.abc import Iterator

from tests.architecture.source import APP, Module, list_modules

# Names of values that an attacker may guess byte by byte. A check value is public.
_SECRET = re.compile(r"(digest|signature|csrf|secret|token|password|code_hash|fingerprint)s?$")
# Constants and lengths stand on one side of harmless comparisons.
_HARMLESS = (ast.Constant,)


def comparisons(module: Module) -> Iterator[ast.Compare]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            yield node


def name_of(node: ast.expr) -> str:
    """The last word of what is compared."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute():
            return node.attr
        case ast.Call():
            return name_of(node.func)
        case _:
            return ""


def is_sql(node: ast.Compare) -> bool:
    """A condition of a statement: the database compares, by an index."""
    sides = (node.left, *node.comparators)
    return any(
        isinstance(side, ast.Attribute)
        and isinstance(side.value, ast.Name)
        and (side.value.id.endswith("Row") or side.value.id in {"row", "other"})
        for side in sides
    )


def test_secrets_are_compared_in_constant_time() -> None:
    wrong = [
        f"{module.path}:{node.lineno} {ast.unparse(node)}"
        for module in list_modules(APP)
        for node in comparisons(module)
        if not is_sql(node)
        and not any(isinstance(side, _HARMLESS) for side in (node.left, *node.comparators))
        and any(_SECRET.search(name_of(side)) for side in (node.left, *node.comparators))
    ]
    assert wrong == []


def test_the_master_key_is_stretched_at_one_place() -> None:
    """Once a start, never in a request; the settings refuse few rounds in production."""
    users = [
        str(module.path)
        for module in list_modules(APP)
        if "pbkdf2_hmac" in ast.unparse(module.tree)
    ]
    assert users == ["app/infra/cipher/kek.py"]
    callers = {
        str(module.path)
        for module in list_modules(APP)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and name_of(node.func) == "derive_kek"
    }
    assert callers == {
        "app/infra/cipher/kek.py",
        "app/infra/cipher/keyring.py",
        "app/infra/cipher/rotation.py",
    }
