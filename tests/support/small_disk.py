"""A disk of a few MiB that can be filled up and freed: a tmpfs where it may be mounted, else a limit on files.

In a container without the right to mount, the limit (RLIMIT_FSIZE, set from outside on running processes)
lets every write fail that would make a file longer than that, with EFBIG where a full disk says ENOSPC.
"""

import errno
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MIB = 1_048_576
_BALLAST = "ballast"
# What a process says of itself goes into files as well.
_LEAST_LIMIT = 65_536


class SmallDisk:
    """`path` is its root."""

    def __init__(self, path: Path, *, is_mounted: bool) -> None:
        self.path = path
        self.is_mounted = is_mounted
        self._limited: list[int] = []

    def fill(self, processes: Sequence[int], *, leave: int = 0) -> None:
        """Leave so many bytes; `processes` (with their children) are those that write there."""
        if self.is_mounted:
            self._write_ballast(leave)
            return
        self._limited = list(processes)
        self._limit(max(leave, _LEAST_LIMIT))

    def free(self) -> None:
        """Whatever was done to fill it is undone."""
        (self.path / _BALLAST).unlink(missing_ok=True)
        self._limit(resource.RLIM_INFINITY)
        self._limited = []

    def _write_ballast(self, leave: int) -> None:
        """To the last byte, then as much back as is to be left."""
        with (self.path / _BALLAST).open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                with suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        continue
            file.truncate(max(0, file.tell() - leave))

    def _limit(self, size: int) -> None:
        """Of those that are limited and of what they have started, also since then."""
        for pid in self._limited:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                for member in (process, *process.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess, ProcessLookupError):
                        _limit_files(member, size)


def _limit_files(process: psutil.Process, size: int) -> None:
    owner = process.uids().real
    if owner == os.getuid():
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, most))
        return
    # Root in a container may become anybody, but set no limits of theirs.
    wanted = "unlimited" if size == resource.RLIM_INFINITY else str(size)
    command = ["prlimit", f"--pid={process.pid}", f"--fsize={wanted}:"]
    made = subprocess.run(command, user=owner, extra_groups=[], check=False, capture_output=True)
    if made.returncode and process.is_running():
        msg = f"no limit for {process.pid}: {made.stderr.decode(errors='replace')}"
        raise PermissionError(msg)


@contextmanager
def small_disk(directory: Path, *, size: int = 64 * MIB) -> Iterator[SmallDisk]:
    """An empty one at `directory`, which may be there already if it is empty."""
    directory.mkdir(parents=True, exist_ok=True)
    is_mounted = _mount(directory, size)
    disk = SmallDisk(directory, is_mounted=is_mounted)
    try:
        yield disk
    finally:
        disk.free()
        if is_mounted:
            # Lazily: what still lies open there ends with its process.
            subprocess.run(["umount", "-l", str(directory)], check=True, capture_output=True)


def can_mount() -> bool:
    """Whether a disk is a real one here."""
    with tempfile.TemporaryDirectory() as directory, small_disk(Path(directory)) as disk:
        return disk.is_mounted


def _mount(directory: Path, size: int) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "tmpfs", str(directory)]
    try:
        made = subprocess.run(command, check=False, capture_output=True, timeout=20)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return made.returncode == 0 and os.path.ismount(directory)
