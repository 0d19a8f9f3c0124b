"""What the source of the server may not do at all; ruff and bandit see lines, this sees the whole.

No code or command from data, no weak primitive, no guessable source, no address from a user.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.architecture.source import APP, ROOT, Module, list_modules

MODULES = list_modules(APP)
# `app.infra.supervisor` and the launcher handle processes of our own.
_FORBIDDEN_MODULES = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "yaml",
    "subprocess",
    "pty",
    "ctypes",
    "jinja2",
}
# One function of the C library each, with constants.
_ALLOWED = {("app/infra/memory.py", "ctypes"), ("app/infra/media/lockdown.py", "ctypes")}
_FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
# Python itself, with a module of our own: no word of it comes from anybody.
_STARTS_PROCESSES = "app/infra/media/decoder.py"
_WEAK = {"md5", "sha1", "ECB", "ARC4", "TripleDES", "Blowfish", "CBC"}
_GUESSABLE = {"random", "uuid.uuid1", "uuid.getnode"}
_CLIENTS = {"httpx", "aiohttp", "requests", "urllib.request", "http.client", "websockets.client"}


def imports(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(module: Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))


def test_no_part_of_the_server_runs_commands_or_code() -> None:
    """ASVS 1.2.5, 1.3.2, 1.5.2."""
    found = [
        f"{module.path}: {name}"
        for module in MODULES
        for name in imports(module)
        if name.split(".")[0] in _FORBIDDEN_MODULES and (str(module.path), name) not in _ALLOWED
    ]
    found += [
        f"{module.path}:{call.lineno}"
        for module in MODULES
        for call in calls(module)
        if ast.unparse(call.func) in _FORBIDDEN_CALLS
    ]
    found += [
        f"{module.path}:{call.lineno}"
        for module in MODULES
        for call in calls(module)
        if ast.unparse(call.func).startswith("asyncio.create_subprocess")
        and str(module.path) != _STARTS_PROCESSES
    ]
    assert found == []


def test_no_weak_hash_or_cipher_is_used() -> None:
    """ASVS 11.3, 11.4.1. The checksums of tus are chosen by clients and guard against broken lines alone."""
    found = [
        f"{module.path}:{node.lineno} {name}"
        for module in MODULES
        if str(module.path) != "app/features/files/resumable/protocol.py"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and (name := node.attr if isinstance(node, ast.Attribute) else node.id) in _WEAK
    ]
    assert found == []


def test_nothing_is_drawn_from_a_guessable_source() -> None:
    """ASVS 11.5.1: `secrets` and `os.urandom` alone; a random UUID is an id, never a secret."""
    found = [
        f"{module.path}: {name}"
        for module in MODULES
        for name in imports(module)
        if name in _GUESSABLE or name.startswith("random.")
    ]
    assert found == []


def test_only_the_sms_adapters_open_connections_over_http() -> None:
    """ASVS 1.3.6, 13.2.4: and those go where the settings say."""
    found = {
        str(module.path)
        for module in MODULES
        for name in imports(module)
        if name in _CLIENTS or name.split(".")[0] in {"httpx", "aiohttp", "requests"}
    }
    assert {path for path in found if not path.startswith("app/infra/sms/")} == set()


def test_no_redirect_is_followed() -> None:
    """ASVS 15.3.2: httpx follows none unless it is told to."""
    found = [
        f"{module.path}:{call.lineno}"
        for module in MODULES
        for call in calls(module)
        for keyword in call.keywords
        if keyword.arg == "follow_redirects" and ast.unparse(keyword.value) != "False"
    ]
    assert found == []


@pytest.mark.parametrize("name", ["policy.py", "access.py"])
def test_rules_of_access_are_under_mutation(name: str) -> None:
    """`make mutants` takes every file of this name; a rule elsewhere would escape it."""
    page = (ROOT / "pyproject.toml").read_text()
    assert f'"app/features/*/{name}"' in page
    assert sorted((APP / "features").glob(f"*/{name}"))
