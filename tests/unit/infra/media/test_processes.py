"""The processes that decode: what they may do, what ends them, and whom that harms."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.infra.media import decoder as decoder_module
from app.infra.media import pool as pool_module
from app.infra.media.decoder import Decoder
from app.infra.media.pool import DecoderPool
from app.infra.media.port import MediaBroken, MediaBusy, MediaTimeout
from app.infra.media.processor import MediaProcessor
from tests.support.media import camera_photo, video
from tests.support.waiting import eventually
from tests.unit.infra.media.sources import Bytes, Watched

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

ROOT = Path(__file__).parents[4]


@pytest.fixture
async def media(anyio_backend: str) -> AsyncIterator[MediaProcessor]:
    processor = MediaProcessor()
    yield processor
    await processor.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def is_alive(pid: int) -> bool:
    try:
        return status(pid)["State"][0] != "Z"
    except FileNotFoundError:
        return False


async def is_gone(pid: int) -> None:
    async def gone() -> bool:
        return not is_alive(pid)

    await eventually(gone, timeout_seconds=20, what="the end of the process")


async def test_nothing_runs_before_it_is_needed(media: MediaProcessor) -> None:
    assert media.pids == []
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    assert len(media.pids) == 1
    await media.probe_clip(Bytes(video()), format="mp4")
    assert len(media.pids) == 2


class Silent(Bytes):
    """A storage that takes the question and never answers."""

    async def read(self, start: int, length: int) -> bytes:
        await asyncio.Event().wait()
        return await super().read(start, length)


async def test_bytes_that_do_not_come_are_not_the_fault_of_the_file(
    media: MediaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "_SOURCE_SECONDS", 0.5)
    with pytest.raises(MediaBusy):
        await media.probe_clip(Silent(video()), format="mp4")
    assert media.pids == []


async def test_a_process_serves_many_and_is_replaced_in_time(
    media: MediaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_MAX_JOBS", 3)
    pids: list[int] = []
    for _ in range(4):
        await media.process_photo(Bytes(camera_photo()), format="JPEG")
        pids += media.pids
    assert len(set(pids)) == 2
    await is_gone(pids[0])


async def test_an_idle_process_ends(media: MediaProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_IDLE_SECONDS", 0.05)
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    [pid] = media.pids
    await is_gone(pid)
    assert media.pids == []
    await media.process_photo(Bytes(camera_photo()), format="JPEG")


async def test_a_process_owns_nothing(
    media: MediaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "not for decoders")
    left_open = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(left_open, True)
    try:
        await media.process_photo(Bytes(camera_photo()), format="JPEG")
        await media.probe_clip(Bytes(video()), format="mp4")
    finally:
        os.close(left_open)
    for pid in media.pids:
        assert_locked_in(pid)


def assert_locked_in(pid: int) -> None:
    process = Path(f"/proc/{pid}")
    if os.geteuid() == 0:
        # To anybody else its files are closed, those of the same account included.
        opened = {file.name: str(file.readlink()) for file in (process / "fd").iterdir()}
        assert opened.pop("0").startswith("socket:")
        assert opened == {"1": "/dev/null", "2": "/dev/null"}
        # The coercion of its locale is Python's own.
        assert (process / "environ").read_bytes().strip(b"\0") in {b"", b"LC_CTYPE=C.UTF-8"}
        assert (process / "cwd").readlink() == Path("/")
    assert status(pid)["NoNewPrivs"] == "1"
    assert status(pid)["Seccomp"] == "2"
    assert status(pid)["Threads"] == "1"
    assert (process / "oom_score_adj").read_text().strip() == "1000"
    limits = {
        line[:26].strip(): line[26:].split()[:2]
        for line in (process / "limits").read_text().splitlines()
    }
    assert limits["Max address space"] == ["1073741824", "1073741824"]
    assert limits["Max cpu time"] == ["600", "600"]
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["3", "3"]


_ATTEMPTS = """
import ctypes, os, socket, sys
sys.path.insert(0, {root!r})
from app.infra.media.lockdown import lock_in
libc = ctypes.CDLL(None, use_errno=True)
page = libc.mmap
assert lock_in(0)
def attempt(name, work):
    try:
        result = work()
    except (OSError, ImportError) as error:
        print(name, "refused", error.errno if isinstance(error, OSError) else "")
    else:
        print(name, result)
attempt("file", lambda: open("/etc/passwd").read())
attempt("write", lambda: open("/tmp/x", "w"))
attempt("list", lambda: os.listdir("/"))
attempt("stat", lambda: os.stat("/etc/passwd"))
attempt("network", socket.socket)
attempt("pair", socket.socketpair)
attempt("fork", os.fork)
attempt("exec", lambda: os.execv("/bin/sh", ["sh"]))
attempt("kill", lambda: os.kill({parent}, 0))
attempt("memory", lambda: os.memfd_create("x"))
attempt("trace", lambda: libc.ptrace(0, 0, 0, 0) == 0 or (_ for _ in ()).throw(OSError(1, "")))
import mmap
attempt("code", lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC))
attempt("data", lambda: len(mmap.mmap(-1, 4096)))
"""


def test_behind_the_lock_nothing_can_be_reached() -> None:
    code = _ATTEMPTS.format(root=str(ROOT), parent=os.getpid()).replace("import mmap\n", "")
    code = "import mmap\n" + code
    found = subprocess.run(
        [sys.executable, "-u", "-c", code], capture_output=True, text=True, check=False
    )
    answers = dict(line.split(" ", 1) for line in found.stdout.splitlines())
    assert answers.pop("data") == "4096", found.stderr
    assert len(answers) == 12
    assert all(answer.startswith("refused") for answer in answers.values()), answers


async def test_a_killed_process_harms_nobody(media: MediaProcessor) -> None:
    """Killed from outside in the middle: another one does its job."""
    killed: list[int] = []

    def kill_once() -> None:
        if not killed:
            killed.extend(media.pids)
            os.kill(killed[0], signal.SIGKILL)

    photo = await media.process_photo(Watched(camera_photo(), kill_once), format="JPEG")
    assert photo.width == 640
    assert killed
    assert media.pids != killed
    await is_gone(killed[0])


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
async def test_a_file_that_crashes_its_process_twice_is_broken(
    media: MediaProcessor, number: signal.Signals
) -> None:
    crashed: list[int] = []

    def crash() -> None:
        crashed.extend(media.pids)
        os.kill(media.pids[0], number)

    with pytest.raises(MediaBroken):
        await media.process_photo(Watched(camera_photo(), crash), format="JPEG")
    assert len(set(crashed)) == 2
    await media.process_photo(Bytes(camera_photo()), format="JPEG")


class Hunted(Watched):
    """A file whose decoders are killed from outside, as by a kernel that has no memory left."""

    def __init__(self, content: bytes, pool: DecoderPool | MediaProcessor) -> None:
        super().__init__(content, lambda: [os.kill(pid, signal.SIGKILL) for pid in pool.pids])


async def test_processes_that_are_killed_each_time_say_nothing_of_the_file(
    media: MediaProcessor,
) -> None:
    with pytest.raises(MediaBusy) as refused:
        await media.process_photo(Hunted(camera_photo(), media), format="JPEG", name="a")
    assert refused.value.retry_after
    photo = await media.process_photo(Bytes(camera_photo()), format="JPEG", name="a")
    assert photo.width == 640


async def test_one_that_crashes_and_is_killed_may_be_sound(media: MediaProcessor) -> None:
    numbers = [signal.SIGSEGV, signal.SIGKILL]

    def end() -> None:
        os.kill(media.pids[0], numbers.pop())

    with pytest.raises(MediaBusy):
        await media.process_photo(Watched(camera_photo(), end), format="JPEG")


async def test_a_file_whose_processes_are_always_killed_is_broken_in_the_end(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_MAX_HINDERED", 3)
    monkeypatch.setattr(pool_module, "_HINDERED_SECONDS", 0.0)
    pool = DecoderPool("photo_process", processes=1, cpu_seconds=5)
    hunted, sound = Hunted(camera_photo(), pool), Bytes(camera_photo())
    try:
        for _ in range(2):
            with pytest.raises(MediaBusy):
                await pool.run(hunted, format="JPEG", name="a")
        # Another file is another matter, and one that went well begins anew.
        with pytest.raises(MediaBusy):
            await pool.run(hunted, format="JPEG", name="b")
        await pool.run(sound, format="JPEG", name="b")
        with pytest.raises(MediaBroken):
            await pool.run(hunted, format="JPEG", name="a")
        for _ in range(2):
            with pytest.raises(MediaBusy):
                await pool.run(hunted, format="JPEG", name="b")
        # Not within a minute of bad luck.
        monkeypatch.setattr(pool_module, "_HINDERED_SECONDS", 3600.0)
        with pytest.raises(MediaBusy):
            await pool.run(hunted, format="JPEG", name="b")
    finally:
        await pool.close()


async def test_what_is_known_of_hindered_files_is_bounded(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_MOST_HINDERED_FILES", 2)
    pool = DecoderPool("photo_process", processes=1, cpu_seconds=5)
    try:
        for name in ("a", "b", "c"):
            with pytest.raises(MediaBusy):
                await pool.run(Hunted(camera_photo(), pool), format="JPEG", name=name)
        assert list(pool._hindered) == ["b", "c"]
    finally:
        await pool.close()


async def test_one_that_closes_its_pipe_and_goes_on_was_not_killed_by_others(
    anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "_END_SECONDS", 0.1)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import time; time.sleep(60)")
    )
    theirs.close()
    decoder = Decoder(process, ours)
    with pytest.raises(decoder_module.DecoderGone) as gone:
        await decoder.run(Bytes(camera_photo()), format="JPEG", cpu_seconds=5)
    assert not isinstance(gone.value, decoder_module.DecoderKilled)
    await decoder.wait()


async def test_an_idle_process_that_was_killed_is_replaced(media: MediaProcessor) -> None:
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    [pid] = media.pids
    os.kill(pid, signal.SIGKILL)
    await is_gone(pid)
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    assert media.pids != [pid]


async def test_a_terminal_that_interrupts_all_does_not_end_it(media: MediaProcessor) -> None:
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    pids = media.pids
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pids[0], number)
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    assert media.pids == pids


async def test_a_decoder_that_does_not_come_to_an_end_is_killed(anyio_backend: str) -> None:
    """By the processor's time, whatever it is in the middle of."""
    pool = DecoderPool("photo_process", processes=1, cpu_seconds=1)
    try:
        await pool.run(Bytes(camera_photo()), format="JPEG")
        [pid] = pool.pids
        with pytest.raises(MediaTimeout):
            await pool.run(Bytes(_scans()), format="JPEG")
        await is_gone(pid)
        await pool.run(Bytes(camera_photo()), format="JPEG")
    finally:
        await pool.close()


def _scans() -> bytes:
    """A progressive JPEG that repeats a scan of nothing over four million blocks."""
    made = camera_photo(progressive=True)
    start = made.index(b"\xff\xc2") + 5
    made = made[:start] + b"\x17\x70\x17\x70" + made[start + 4 :]
    first = made.index(b"\xff\xda")
    second = made.index(b"\xff\xc4", first)
    return made[:second] + made[first:second] * 2000 + made[second:]


async def test_a_decoder_that_stands_still_is_killed(
    media: MediaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.media.decoder._PATIENCE", 0.1)
    stopped: list[int] = []

    def stop() -> None:
        if not stopped:
            stopped.extend(media.pids)
            os.kill(stopped[0], signal.SIGSTOP)

    # Nor would one go on that gets nothing of a busy machine's time: it is no fault of the file's.
    with pytest.raises(MediaBusy) as refused:
        await media.process_photo(Watched(camera_photo(), stop), format="JPEG")
    assert refused.value.retry_after
    await is_gone(stopped[0])


async def test_a_storage_that_fails_tells_whoever_asked(media: MediaProcessor) -> None:
    class Failing(Bytes):
        async def read(self, start: int, length: int) -> bytes:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await media.process_photo(Failing(camera_photo()), format="JPEG")
    await media.process_photo(Bytes(camera_photo()), format="JPEG")


async def test_whoever_gives_up_leaves_no_answer_to_the_next(media: MediaProcessor) -> None:
    reached = asyncio.Event()

    class Hanging(Bytes):
        async def read(self, start: int, length: int) -> bytes:
            reached.set()
            await asyncio.Event().wait()
            raise AssertionError

    task = asyncio.create_task(media.process_photo(Hanging(camera_photo()), format="JPEG"))
    await reached.wait()
    [pid] = media.pids
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await is_gone(pid)
    photo = await media.process_photo(Bytes(camera_photo(orientation=6)), format="JPEG")
    assert (photo.width, photo.height) == (480, 640)


async def test_a_full_queue_refuses_at_once(
    media: MediaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = await asyncio.gather(
        *(media.process_photo(Bytes(camera_photo()), format="JPEG") for _ in range(40)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, MediaBusy)]
    assert len(refused) == 40 - 33
    assert all(outcome.retry_after for outcome in refused)
    assert len(media.pids) == 1


async def test_more_processes_work_side_by_side(anyio_backend: str) -> None:
    media = MediaProcessor(processes=3)
    try:
        await asyncio.gather(
            *(media.process_photo(Bytes(camera_photo()), format="JPEG") for _ in range(9))
        )
        assert len(media.pids) == 3
    finally:
        await media.close()


async def test_closing_ends_all_of_them(anyio_backend: str) -> None:
    media = MediaProcessor()
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    await media.probe_clip(Bytes(video()), format="mp4")
    pids = media.pids
    await media.close()
    assert media.pids == []
    assert not any(is_alive(pid) for pid in pids)


_SERVER = """
import asyncio, sys
sys.path.insert(0, {root!r})
from app.infra.media.processor import MediaProcessor
from tests.support.media import camera_photo, video
from tests.unit.infra.media.sources import Bytes

async def main():
    media = MediaProcessor()
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    await media.probe_clip(Bytes(video()), format="mp4")
    print(*media.pids, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_server_leaves_no_process_behind(anyio_backend: str) -> None:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SERVER.format(root=str(ROOT))),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    assert server.stdout is not None
    pids = [int(pid) for pid in (await server.stdout.readline()).split()]
    assert len(pids) == 2
    assert all(is_alive(pid) for pid in pids)
    server.kill()
    await server.wait()
    for pid in pids:
        await is_gone(pid)


async def test_the_loop_goes_on_while_a_photo_is_decoded(media: MediaProcessor) -> None:
    await media.process_photo(Bytes(camera_photo()), format="JPEG")
    work = asyncio.create_task(media.process_photo(Bytes(camera_photo()), format="JPEG"))
    turns = 0
    while not work.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20


async def test_a_decoder_that_talks_nonsense_is_not_believed(anyio_backend: str) -> None:
    """One that was taken over may say anything."""
    for nonsense in (
        b"Z\0\0\0\0",
        b"R\0\0\0\x01x",
        b"R\0\0\0\x0c" + (2**40).to_bytes(8, "big") + (10).to_bytes(4, "big"),
        b"R\0\0\0\x0c" + bytes(8) + (2**31).to_bytes(4, "big"),
        b"A\xff\xff\xff\xff",
        b"A\0\0\0\x02{}",
        b'A\0\0\0\x1c{"fields": {}, "sizes": [-1]}',
        b'A\0\0\0\x1d{"fields": {}, "sizes": ["x"]}'[:5] + b"[" * 29,
    ):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "import time; time.sleep(60)")
        )
        decoder = Decoder(process, ours)
        theirs.sendall(nonsense)
        with pytest.raises(pool_module.DecoderGone):
            await decoder.run(Bytes(camera_photo()), format="JPEG", cpu_seconds=5)
        await decoder.wait()
        theirs.close()
