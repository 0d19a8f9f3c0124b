"""The adapter of clamd against one that finds, refuses, fails, hangs or goes away, over both kinds of socket."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.infra.scanner.address import read_clamd_address
from app.infra.scanner.clamd import Clamd
from app.infra.scanner.port import ScannerUnavailable
from tests.support.clamd import EICAR, SIGNATURE, ClamdServer
from tests.support.ports import free_port
from tests.support.waiting import eventually

MIB = 1_048_576


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, directory: Path) -> Iterator[ClamdServer]:
    place = directory / "clamd.ctl" if request.param == "unix" else free_port()
    with ClamdServer(place) as running:
        yield running


def clamd_of(server: ClamdServer, *, answer_seconds: float = 60.0) -> Clamd:
    return Clamd(read_clamd_address(server.address), answer_seconds=answer_seconds)


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


@contextmanager
def refused() -> Iterator[list[str]]:
    """The reasons in the log, of which there is one."""
    reasons: list[str] = []
    with capture_logs() as lines, pytest.raises(ScannerUnavailable) as caught:
        yield reasons
    assert caught.value.retry_after == 5
    [line] = lines
    assert (line["event"], line["log_level"]) == ("scanner_failed", "warning")
    reasons.append(line["reason"])


async def expect_closed(server: ClamdServer) -> None:
    async def is_closed() -> bool:
        return server.open_connections == 0

    await eventually(is_closed, what="no connection is left", timeout_seconds=20)


async def test_what_is_known_is_found_wherever_the_pieces_are_cut(server: ClamdServer) -> None:
    clamd = clamd_of(server)
    whole = b"a" * 100_000 + EICAR + b"b" * MIB
    for cut in (0, 100_010, 100_000 + len(EICAR), len(whole)):
        assert await clamd.find_malware(pieces_of(whole[:cut], whole[cut:])) == SIGNATURE
    assert server.received == [len(whole)] * 4
    await expect_closed(server)


async def test_what_is_not_known_is_clean(server: ClamdServer) -> None:
    clamd = clamd_of(server)
    assert await clamd.find_malware(pieces_of(*[b"a" * MIB] * 8)) is None
    assert await clamd.find_malware(pieces_of(b"", b"an empty piece is not the end", b"")) is None
    assert await clamd.find_malware(pieces_of()) is None
    assert server.received == [8 * MIB, 29, 0]
    await expect_closed(server)


async def test_an_answer_that_comes_in_bits_is_put_together(server: ClamdServer) -> None:
    server.mode = "drip"
    assert await clamd_of(server).find_malware(pieces_of(EICAR)) == SIGNATURE


async def test_a_long_search_is_waited_for(server: ClamdServer) -> None:
    server.gate.clear()
    searching = asyncio.create_task(clamd_of(server).find_malware(pieces_of(EICAR)))

    async def is_there() -> bool:
        return bool(server.received)

    await eventually(is_there, what="clamd has all of it", timeout_seconds=20)
    assert not searching.done()
    server.gate.set()
    assert await searching == SIGNATURE


async def test_a_name_may_be_strange_and_is_short(server: ClamdServer) -> None:
    server.mode = "stream: (null) FOUND"
    assert await clamd_of(server).find_malware(pieces_of(b"a")) == "(null)"
    server.mode = f"stream: {'n' * 3000} FOUND"
    assert await clamd_of(server).find_malware(pieces_of(b"a")) == "n" * 200


@pytest.mark.parametrize(
    "answer",
    [
        "stream: Can't allocate memory ERROR",
        "stream: ",
        "stream: ok",
        "stream: OK FOUND ERROR",
        "OK",
        "Not stream: OK",
        "UNKNOWN COMMAND",
        "",
    ],
)
async def test_only_the_one_word_means_clean(server: ClamdServer, answer: str) -> None:
    server.mode = answer or "\0"
    with refused() as reasons:
        await clamd_of(server).find_malware(pieces_of(b"clean"))
    assert reasons == [answer.removeprefix("stream: ")]
    await expect_closed(server)


async def test_what_it_refuses_for_its_size_is_not_clean(server: ClamdServer) -> None:
    """It answers and closes while we are sending; whether the answer comes through is the network's matter."""
    server.max_bytes = MIB
    for count in (2, 64):
        with refused():
            await clamd_of(server).find_malware(pieces_of(*[b"a" * MIB] * count))
    await expect_closed(server)


async def test_a_limit_below_ours_is_told_with_its_mend(server: ClamdServer) -> None:
    server.mode = "INSTREAM size limit exceeded. ERROR"
    with capture_logs() as lines, pytest.raises(ScannerUnavailable):
        await clamd_of(server).find_malware(pieces_of(b"a"))
    assert "StreamMaxLength" in lines[0]["mend"]


async def test_a_silent_one_is_given_up(server: ClamdServer) -> None:
    server.mode = "silent"
    with refused() as reasons:
        await clamd_of(server, answer_seconds=0.2).find_malware(pieces_of(b"a"))
    assert reasons == ["TimeoutError"]
    await expect_closed(server)


async def test_one_that_reads_nothing_is_given_up(
    server: ClamdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.scanner.clamd._WRITE_SECONDS", 0.2)
    server.mode = "stuck"
    with refused() as reasons:
        await clamd_of(server).find_malware(pieces_of(*[b"a" * MIB] * 64))
    assert reasons == ["TimeoutError"]


async def test_a_line_that_is_cut_is_no_answer(server: ClamdServer) -> None:
    server.mode = "cut"
    with refused() as reasons:
        await clamd_of(server).find_malware(pieces_of(b"a"))
    assert reasons == ["IncompleteReadError"]


async def test_an_answer_without_end_is_none(server: ClamdServer) -> None:
    server.mode = "stream: " + "a" * 100_000
    with refused() as reasons:
        await clamd_of(server).find_malware(pieces_of(b"a"))
    assert reasons == ["LimitOverrunError"]
    await expect_closed(server)


async def test_nobody_there_is_no_answer(server: ClamdServer) -> None:
    clamd = clamd_of(server)
    await clamd.check()
    server.stop()
    with refused():
        await clamd.find_malware(pieces_of(b"a"))
    with refused():
        await clamd.check()
    server.start()
    await clamd.check()
    await expect_closed(server)


async def test_a_check_wants_the_right_answer_in_time(
    server: ClamdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.infra.scanner.clamd._PING_SECONDS", 0.2)
    server.is_mute = True
    with refused() as reasons:
        await clamd_of(server).check()
    assert reasons == ["TimeoutError"]
    await expect_closed(server)


async def test_pieces_that_break_off_close_the_line(server: ClamdServer) -> None:
    class BrokenOffError(Exception):
        pass

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * MIB
        raise BrokenOffError

    with pytest.raises(BrokenOffError):
        await clamd_of(server).find_malware(pieces())
    await expect_closed(server)
    assert server.received == []


async def test_who_gives_up_closes_the_line(server: ClamdServer) -> None:
    server.mode = "silent"
    searching = asyncio.create_task(clamd_of(server).find_malware(pieces_of(b"a")))

    async def is_there() -> bool:
        return bool(server.received)

    await eventually(is_there, what="clamd has all of it", timeout_seconds=20)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    await expect_closed(server)
