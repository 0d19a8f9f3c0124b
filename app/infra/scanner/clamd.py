"""Asks clamd, by its command INSTREAM (clamd(8), "Commands"): one connection a question, over TCP or a Unix socket."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import structlog

from app.infra.scanner.address import TcpAddress, UnixAddress
from app.infra.scanner.port import RETRY_SECONDS, ScannerUnavailable

_CONNECT_SECONDS: Final = 2.0
_WRITE_SECONDS: Final = 10.0
_PING_SECONDS: Final = 4.0
_MAX_ANSWER_BYTES: Final = 4_096
_MAX_NAME_CHARACTERS: Final = 200
_PREFIX: Final = "stream: "
_FOUND: Final = " FOUND"
_TOO_LARGE: Final = "INSTREAM size limit exceeded"

log = structlog.stdlib.get_logger("app.scanner")


class Clamd:
    """Keeps no connection open between questions."""

    def __init__(self, address: TcpAddress | UnixAddress, *, answer_seconds: float) -> None:
        """`answer_seconds`: how long it may think when it has all of a file."""
        self._address = address
        self._answer_seconds = answer_seconds

    async def check(self) -> None:
        """As `Scanner.check`."""
        answer = await self._ask(b"zPING\0", _no_frames(), seconds=_PING_SECONDS)
        if answer != "PONG":
            raise _unavailable(answer)

    async def find_malware(self, pieces: AsyncIterable[bytes]) -> str | None:
        """As `Scanner.find_malware`."""
        answer = await self._ask(b"zINSTREAM\0", _frame(pieces), seconds=self._answer_seconds)
        said = answer.removeprefix(_PREFIX)
        if said == answer:
            raise _unavailable(answer)
        if said.endswith(_FOUND):
            return said.removesuffix(_FOUND)[:_MAX_NAME_CHARACTERS]
        if said != "OK":
            raise _unavailable(said)
        return None

    async def _ask(self, command: bytes, frames: AsyncGenerator[bytes], *, seconds: float) -> str:
        try:
            async with aclosing(frames), self._connect() as (reader, writer):
                # Read from the beginning on: it may refuse while we are still sending, and then it closes.
                answer = asyncio.create_task(reader.readuntil(b"\0"), name="clamd-answer")
                try:
                    await _send(writer, command, frames, answer)
                    async with asyncio.timeout(seconds):
                        return (await answer)[:-1].decode(errors="replace")
                finally:
                    answer.cancel()
                    await asyncio.gather(answer, return_exceptions=True)
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            raise _unavailable(type(error).__name__) from error

    @asynccontextmanager
    async def _connect(
        self,
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(_CONNECT_SECONDS):
            match self._address:
                case TcpAddress(host, port):
                    reader, writer = await asyncio.open_connection(
                        host, port, limit=_MAX_ANSWER_BYTES
                    )
                case UnixAddress(path):
                    reader, writer = await asyncio.open_unix_connection(
                        path, limit=_MAX_ANSWER_BYTES
                    )
        try:
            yield reader, writer
        finally:
            # At once: it has answered, or what it would say is not waited for.
            writer.transport.abort()


async def _send(
    writer: asyncio.StreamWriter,
    command: bytes,
    frames: AsyncIterable[bytes],
    answer: "asyncio.Task[bytes]",
) -> None:
    """As much as it takes: what it said before it closed is in `answer`, or why there is none."""
    with suppress(ConnectionError):
        await _write(writer, command)
        async for frame in frames:
            if answer.done():
                return
            await _write(writer, frame)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(_WRITE_SECONDS):
        await writer.drain()


async def _no_frames() -> AsyncGenerator[bytes]:
    for frame in ():
        yield frame


async def _frame(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """Each piece behind its length; a length of zero is the end."""
    async for piece in pieces:
        if piece:
            yield len(piece).to_bytes(4, "big") + piece
    yield bytes(4)


def _unavailable(reason: str) -> ScannerUnavailable:
    """Logged; `reason` in clamd's words or by the name of the error."""
    mend: dict[str, str] = {}
    if reason.startswith(_TOO_LARGE):
        mend = {"mend": "CLAMD_MAX_SIZE must be at most StreamMaxLength of clamd"}
    log.warning("scanner_failed", reason=reason[:_MAX_NAME_CHARACTERS], **mend)
    return ScannerUnavailable(retry_after=RETRY_SECONDS)
