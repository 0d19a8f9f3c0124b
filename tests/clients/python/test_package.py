"""The client can be installed by itself: what its wheel holds and needs."""

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.servers import ROOT

PACKAGE = ROOT / "clients/python"


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_types_and_its_needs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(PACKAGE)],
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert built.returncode == 0, built.stderr.decode()
    [wheel] = tmp_path.glob("messenger_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata_name] = [name for name in names if name.endswith("METADATA")]
        metadata = email.message_from_bytes(archive.read(metadata_name))
    sources = {
        f"messenger_client/{path.name}"
        for path in (PACKAGE / "src/messenger_client").iterdir()
        if path.is_file()
    }
    assert sources <= names
    assert "messenger_client/py.typed" in sources
    assert metadata["Name"] == "messenger-client"
    needed = {line.split(">")[0] for line in metadata.get_all("Requires-Dist") or []}
    assert needed == {"httpx", "websockets"}
