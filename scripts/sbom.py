"""Prints the bill of materials of what the server ships: every locked library with its hashes, as CycloneDX 1.6."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.txt"
_LOCKED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def make_bill(lock: str) -> dict[str, Any]:
    """The document for the text of a lock that was made with hashes."""
    server = {"type": "application", "name": "telegram-clone-backend"}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": server},
        "components": list(_read_lock(lock)),
    }


def _read_lock(lock: str) -> Iterator[dict[str, Any]]:
    for entry in lock.replace("\\\n", " ").splitlines():
        if found := _LOCKED.match(entry):
            name, version = found["name"].lower(), found["version"]
            yield {
                "type": "library",
                "bom-ref": f"{name}=={version}",
                "name": name,
                "version": version,
                "purl": f"pkg:pypi/{name}@{version}",
                "hashes": [{"alg": "SHA-256", "content": it} for it in _HASH.findall(entry)],
            }


if __name__ == "__main__":
    bill = make_bill(LOCK.read_text(encoding="utf-8"))
    sys.stdout.write(json.dumps(bill, indent=2) + "\n")
