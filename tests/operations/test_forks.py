"""What the tests start by forking is as if it had been started: its files, its end, its session, its environment."""

import os
import signal
import sys
from pathlib import Path

from tests.support import forks
from tests.support.servers import LAUNCHER, Server

ADMIN = (sys.executable, "-m", "app.admin")


def test_a_command_ends_with_its_status_and_says_what_it_says(directory: Path) -> None:
    environment = Server(directory).environment
    assert forks.may_fork(ADMIN, environment)
    ran = forks.run((*ADMIN, "check"), directory=directory, environment=environment)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ok\n", "")
    wrong = environment | {"PORT": "many"}
    ran = forks.run((*ADMIN, "check"), directory=directory, environment=wrong)
    assert ran.returncode == 1
    assert ran.stdout.startswith("PORT: ")
    ran = forks.run((*ADMIN, "nonsense"), directory=directory, environment=environment)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert "nonsense" in ran.stderr


def test_a_server_is_a_session_of_its_own_and_its_end_is_told(directory: Path) -> None:
    with Server(directory) as server:
        assert os.getpgid(server.pid) == server.pid == os.getsid(server.pid)
        process = Path(f"/proc/{server.pid}")
        assert (process / "cwd").resolve() == directory.resolve()
        assert (process / "fd/1").resolve() == server.output_file.resolve()
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait_for_exit(10) == -signal.SIGKILL
        assert not server.is_running
        server.kill()


def test_a_process_of_which_nobody_wants_to_know_ends_alone(directory: Path) -> None:
    """As after a test that failed in the middle."""
    environment = Server(directory).environment
    with (directory / "output").open("wb") as output:
        for _ in range(3):
            command = (*ADMIN, "check")
            forks.start(command, directory=directory, environment=environment, output=output)
            ran = forks.run(command, directory=directory, environment=environment)
            assert (ran.returncode, ran.stdout) == (0, "ok\n")


def test_other_sources_are_not_forked(directory: Path) -> None:
    environment = Server(directory).environment
    assert forks.may_fork(LAUNCHER, environment)
    assert not forks.may_fork(LAUNCHER, environment | {"PYTHONPATH": str(directory)})
    assert not forks.may_fork((sys.executable, "-m", "tests.support.other_clock"), environment)
