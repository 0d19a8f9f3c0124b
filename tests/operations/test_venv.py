"""`make run` without a wheel for this platform: what decodes hostile bytes is never built here."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deploy.dockerfile import find_interpreter
from tests.support import missing
from tests.support.forks import ROOT

# Builds a wheel of nothing without a further package, and leaves a trace.
_BACKEND = """
import pathlib, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    pathlib.Path({trace!r}).touch()
    name = "{name}-1.0-py3-none-any.whl"
    info = "{name}-1.0.dist-info/"
    with zipfile.ZipFile(pathlib.Path(directory) / name, "w") as wheel:
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nGenerator: a\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""
_PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


class Workshop:
    """A directory with an environment, and an index that has nothing but the source of a package."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.trace = directory / "was-built"
        self._environment = environment

    def offer(self, name: str) -> None:
        """Its source, and the lock that asks for it."""
        files = {
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            "pyproject.toml": _PROJECT,
            "backend.py": _BACKEND.format(name=name, trace=str(self.trace)),
        }
        source = self.directory / "index" / f"{name}-1.0.tar.gz"
        source.parent.mkdir()
        with tarfile.open(source, "w:gz") as archive:
            for path, text in files.items():
                member = tarfile.TarInfo(f"{name}-1.0/{path}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        (self.directory / "lock.txt").write_text(f"{name}==1.0 --hash=sha256:{digest}\n")

    def make(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(ROOT / "scripts" / "venv.sh"), "lock.txt"],
            cwd=self.directory,
            env=dict(self._environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture(params=["pip", "uv"])
def workshop(request: pytest.FixtureRequest, directory: Path) -> Workshop:
    """With the one or the other on the PATH, and without a network."""
    try:
        interpreter = find_interpreter(None)
    except FileNotFoundError:
        missing.skip("scripts/venv.sh", "no Python with venv")
    tools = directory / "tools"
    tools.mkdir()
    for tool in ("sh", "cmp", "cp", "basename", "cat"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)
    if request.param == "uv":
        (tools / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    index = directory / "index"
    configuration = directory / "uv.toml"
    configuration.write_text(f'[pip]\nno-index = true\nfind-links = ["{index}"]\n')
    subprocess.run([interpreter, "-m", "venv", ".venv"], cwd=directory, check=True)
    environment = {
        "PATH": str(tools),
        "HOME": str(directory),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "UV_OFFLINE": "1",
        "UV_CONFIG_FILE": str(configuration),
        "UV_CACHE_DIR": str(directory / "cache"),
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),  # noqa: S108 - as for whoever calls make
    }
    return Workshop(directory, environment)


@pytest.mark.parametrize("name", ["av", "pillow"])
def test_a_decoder_without_a_wheel_is_not_built(workshop: Workshop, name: str) -> None:
    workshop.offer(name)
    made = workshop.make()
    assert made.returncode != 0, made.stdout + made.stderr
    assert not workshop.trace.exists(), made.stdout + made.stderr
    # Whoever runs it is told for want of what.
    assert name in made.stderr.lower()
    assert "wheel" in made.stderr.lower()


def test_anything_else_is_built_where_there_is_no_wheel(workshop: Workshop) -> None:
    workshop.offer("harmless")
    made = workshop.make()
    assert made.returncode == 0, made.stdout + made.stderr
    assert workshop.trace.exists()
