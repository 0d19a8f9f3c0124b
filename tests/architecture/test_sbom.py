"""The bill of materials names every locked library, and by what it can be checked."""

from importlib.metadata import version

from scripts.sbom import LOCK, make_bill


def test_every_locked_library_is_on_the_bill_with_its_hashes() -> None:
    lock = LOCK.read_text()
    components = make_bill(lock)["components"]
    assert len(components) == sum("==" in line for line in lock.splitlines() if line[:1].isalpha())
    for component in components:
        assert component["purl"] == f"pkg:pypi/{component['name']}@{component['version']}"
        assert component["hashes"]
        assert all(len(it["content"]) == 64 for it in component["hashes"])
    shipped = {component["name"]: component["version"] for component in components}
    for name in ("fastapi", "cryptography", "uvicorn", "bcrypt"):
        assert shipped[name] == version(name)
