"""The image: what its recipe promises, and that it builds and serves without a container engine."""

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.deploy.dockerfile import ROOT, Builder, Stage, list_context, read_dockerfile
from tests.support import missing
from tests.support.ports import free_port

IMAGE_USER = 10001
# After a graceful stop uvicorn lets the signal end the process, as a supervisor expects.
CLEAN_ENDS = (0, -signal.SIGTERM)
_START_SECONDS = 40
_STOP_SECONDS = 15


def values_of(name: str) -> list[str]:
    return [
        instruction.value for instruction in read_dockerfile() if instruction.name == name.upper()
    ]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_base_is_pinned_and_slim() -> None:
    (argument,) = values_of("arg")
    name, _, tag = argument.removeprefix("PYTHON_IMAGE=").partition(":")
    assert name == "python"
    assert re.fullmatch(r"3\.\d+(\.\d+)?-slim-\w+", tag), "a version and a release, not `latest`"
    assert all(base.startswith("${PYTHON_IMAGE}") for base in values_of("from"))


def test_it_is_built_in_stages_and_does_not_run_as_root() -> None:
    assert len(values_of("from")) >= 2
    assert values_of("user")[-1] == f"{IMAGE_USER}:{IMAGE_USER}"


def test_it_has_a_health_check_a_volume_and_serves_all_addresses() -> None:
    assert "/health/ready" in values_of("healthcheck")[0]
    assert values_of("volume") == ["/app/var"]
    assert "HOST=0.0.0.0" in values_of("env")[-1]
    assert values_of("cmd") == ['["python", "-m", "app"]']


def test_nothing_is_added_from_the_network_and_no_secret_is_baked_in() -> None:
    assert not values_of("add")
    installs = [
        shlex.split(run) for run in values_of("run") if re.search(r"\bpip3? install\b", run)
    ]
    assert installs
    for words in installs:
        assert "--require-hashes" in words
        # Nothing is built: a compiler would take what it finds of FFmpeg and the like.
        assert words[words.index("--only-binary") + 1] == ":all:"
        assert "--no-binary" not in words
    assert not re.search(r"(SECRET|MASTER|INDEX)_KEY|PASSWORD|TOKEN", "".join(values_of("env")))


def test_what_is_copied_exists_and_nothing_private_is_in_the_context() -> None:
    context = [str(path) for path in list_context()]
    for copy in values_of("copy"):
        if not copy.startswith("--from="):
            for source in copy.split()[:-1]:
                assert any(f"{path}/".startswith(f"{source}/") for path in context), source
    private = (".env", ".git", "var", "tests", ".venv")
    assert not [path for path in context if path.split("/")[0] in private]
    assert not [path for path in context if path.endswith(".pyc")]


@pytest.fixture(scope="module")
def image() -> Iterator[Stage]:
    root = Path(tempfile.mkdtemp(prefix="messenger-image-"))
    # The image's user must reach its files, and is nobody whom this folder's default would let in.
    root.chmod(0o755)
    try:
        owner = IMAGE_USER if os.geteuid() == 0 else None
        yield Builder(root, owner=owner).build()
    except FileNotFoundError:
        missing.skip(
            "the Dockerfile's commands", "no Python with venv that the image's user may run"
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)


class Container:
    """CMD of the image as its user, in its directory, with its environment and another port."""

    def __init__(self, image: Stage) -> None:
        self.image = image
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.output_file = image.root / "output.txt"
        self.output = self.output_file.open("ab")
        self.process = subprocess.Popen(
            image.command, stdout=self.output, stderr=self.output, **self._manner()
        )

    def _manner(self) -> dict[str, object]:
        user = IMAGE_USER if os.geteuid() == 0 else None
        return {
            "cwd": self.image.place("."),
            "env": self.image.real_environment() | {"PORT": str(self.port)},
            "user": user,
            "group": user,
            "extra_groups": [] if user else None,
        }

    def is_healthy(self) -> bool:
        """What HEALTHCHECK of the image says."""
        done = subprocess.run(
            self.image.health_check, check=False, capture_output=True, **self._manner()
        )
        return done.returncode == 0

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_healthy():
            assert self.process.poll() is None, self.output_file.read_text()[-3000:]
            assert time.monotonic() < deadline, self.output_file.read_text()[-3000:]
            time.sleep(0.1)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=_STOP_SECONDS)


@contextmanager
def run(image: Stage) -> Iterator[Container]:
    container = Container(image)
    try:
        container.wait_until_healthy()
        yield container
    finally:
        if container.process.poll() is None:
            container.process.kill()
            container.process.wait()
        container.output.close()


@pytest.mark.slow
def test_the_built_image_serves_keeps_its_data_and_stops_on_sigterm(image: Stage) -> None:
    with run(image) as container:
        assert (
            httpx.get(f"{container.base_url}/docs", trust_env=False).status_code == httpx.codes.OK
        )
        sent = httpx.post(
            f"{container.base_url}/api/v1/auth/send-verification",
            json={"phone": "+4917012345678"},
            trust_env=False,
        )
        assert sent.status_code == httpx.codes.OK, sent.text
        assert container.stop() in CLEAN_ENDS
        assert not container.is_healthy()
    state = image.place(image.volumes[0])
    kept = {file.name: file for file in state.iterdir()}
    assert "messenger.db" in kept
    secrets = [file for name, file in kept.items() if "key" in name]
    assert secrets, f"no generated keys in {sorted(kept)}"
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in secrets)
    before = {file.name: file.read_bytes() for file in secrets}
    with run(image) as container:
        assert container.stop() in CLEAN_ENDS
    assert before == {file.name: file.read_bytes() for file in secrets}


@pytest.mark.slow
def test_the_server_cannot_change_its_own_code(image: Stage) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can act as the image's user")
    code = image.place("app/main.py")
    done = subprocess.run(
        ["/bin/sh", "-c", f"echo >> '{code}'"],
        check=False,
        capture_output=True,
        user=IMAGE_USER,
        group=IMAGE_USER,
        extra_groups=[],
    )
    assert done.returncode != 0
