"""The server's end of one decoder process: starts it, gives it the bytes it asks for, believes nothing it says."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog

from app.infra.media.pipe import (
    BLOCK_BYTES,
    BROKEN,
    DATA,
    HEADER,
    JOB,
    MAX_MESSAGE_BYTES,
    READ,
    READY,
    RESULT,
    SPAN,
    TOO_LARGE,
)
from app.infra.media.port import MediaBroken, MediaBusy, MediaSource, MediaTimeout, MediaTooLarge

_ROOT = Path(__file__).parents[3]
# A machine that is busy takes its time to load FFmpeg.
_START_SECONDS = 30.0
# The storage has limits of its own; this is for one that has none.
_SOURCE_SECONDS = 60.0
_RETRY_SECONDS = 5
# A job is limited by the processor's time that it takes; a busy machine needs longer to give it as much.
_PATIENCE = 6
# Between the end of its pipe and its own.
_END_SECONDS = 10.0
# Of all that one job may give back: what is larger is no photo that anybody wants to load.
_MAX_RESULT_BYTES = 67_108_864
_MAX_PARTS = 8

log = structlog.stdlib.get_logger("app.media")


class DecoderGone(Exception):  # noqa: N818 - says what is found, not what was done
    """The process has ended, or talks nonsense: perhaps the file's doing."""


class DecoderKilled(DecoderGone):
    """Ended from outside, by an operator or by a kernel without memory: that says nothing of the file."""


class DecoderStalled(DecoderGone):
    """It stands still, or gets too little of a busy machine's time: nor does that."""


class _PipeClosed(DecoderGone):
    """It has ended, or is about to."""


@dataclass(frozen=True, slots=True)
class Result:
    """As the decoder gave it: nothing is checked but the sizes."""

    fields: Any
    parts: Sequence[bytes]


class Decoder:
    """One process, which does one job at a time. After anything but a result or a refusal, `kill` it."""

    def __init__(self, process: asyncio.subprocess.Process, connection: socket.socket) -> None:
        self._process = process
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self.is_ready = False
        self.is_locked = False
        self.jobs = 0

    @classmethod
    async def start(cls, module: str) -> Self:
        """`module` of this package is run by Python, without environment, with one descriptor.

        Raises:
            DecoderGone
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-E", "-s", "-m", f"app.infra.media.{module}", str(os.getpid())),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={},
                cwd=_ROOT,
            )
        except OSError as error:
            ours.close()
            raise DecoderGone from error
        finally:
            theirs.close()
        ours.setblocking(False)  # noqa: FBT003 - the library's signature
        decoder = cls(process, ours)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await decoder._greet()
        except TimeoutError as error:
            raise DecoderGone from error
        finally:
            if not decoder.is_ready:
                decoder.kill()
        return decoder

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Whatever it is at. Safe to repeat."""
        self._connection.close()
        if self._process.returncode is None:
            try:
                self._process.kill()
            except ProcessLookupError:
                return

    async def wait(self) -> int:
        """Until it has ended; gives its status."""
        return await self._process.wait()

    async def run(self, source: MediaSource, *, format: str, cpu_seconds: int) -> Result:  # noqa: A002 - a decoder's word
        """Raises:
        DecoderGone, DecoderKilled, DecoderStalled
        MediaBroken, MediaTooLarge, MediaTimeout
        MediaBusy: media_busy, whatever holds the bytes does not give them
        """
        self.jobs += 1
        patience = float(cpu_seconds * _PATIENCE)
        job = {"format": format, "size": source.size, "cpu_seconds": cpu_seconds}
        try:
            await self._send(JOB, json.dumps(job).encode())
            while True:
                started = self._loop.time()
                # Not while the storage is waited for: that is not the decoder's time.
                async with asyncio.timeout(patience):
                    kind, content = await self._receive()
                    if kind == RESULT:
                        return await self._receive_result(content)
                patience -= self._loop.time() - started
                _raise_refusal(kind)
                await self._send(DATA, await _read(source, content))
        except TimeoutError as error:
            raise DecoderStalled from error
        except _PipeClosed as error:
            raise await self._find_cause() from error
        except DecoderGone:
            self.kill()
            raise

    async def _greet(self) -> None:
        kind, content = await self._receive()
        if kind != READY:
            raise DecoderGone
        self.is_locked = json.loads(content)["is_locked"] is True
        self.is_ready = True

    async def _find_cause(self) -> Exception:
        """Of its end, by its status. Its own limit of time says SIGPROF; SIGKILL is nothing that it can do to itself,
        nor was it us.
        """
        try:
            async with asyncio.timeout(_END_SECONDS):
                status = await self.wait()
        except TimeoutError:
            self.kill()
            return DecoderGone()
        if status == -signal.SIGPROF:
            return MediaTimeout()
        return DecoderKilled() if status == -signal.SIGKILL else DecoderGone()

    async def _receive_result(self, content: bytes) -> Result:
        try:
            message = json.loads(content)
            fields, sizes = message["fields"], [int(size) for size in message["sizes"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DecoderGone from error
        if len(sizes) > _MAX_PARTS or min(sizes, default=0) < 0:
            raise DecoderGone
        if sum(sizes) > _MAX_RESULT_BYTES:
            raise MediaTooLarge
        parts: list[bytes] = []
        for size in sizes:
            kind, part = await self._receive(size)
            if kind != DATA:
                raise DecoderGone
            parts.append(part)
        return Result(fields, parts)

    async def _send(self, kind: bytes, content: bytes) -> None:
        try:
            async with asyncio.timeout(_SOURCE_SECONDS):
                await self._loop.sock_sendall(
                    self._connection, HEADER.pack(kind, len(content)) + content
                )
        except TimeoutError:
            raise
        except OSError as error:
            raise _PipeClosed from error

    async def _receive(self, most: int = MAX_MESSAGE_BYTES) -> tuple[bytes, bytes]:
        kind, length = HEADER.unpack(await self._receive_exactly(HEADER.size))
        if length > most:
            raise DecoderGone
        return kind, await self._receive_exactly(length)

    async def _receive_exactly(self, length: int) -> bytes:
        content = bytearray(length)
        view = memoryview(content)
        while view:
            try:
                count = await self._loop.sock_recv_into(self._connection, view)
            except OSError as error:
                raise _PipeClosed from error
            if not count:
                raise _PipeClosed
            view = view[count:]
        return bytes(content)


def _raise_refusal(kind: bytes) -> None:
    if kind == BROKEN:
        raise MediaBroken
    if kind == TOO_LARGE:
        raise MediaTooLarge
    if kind != READ:
        raise DecoderGone


async def _read(source: MediaSource, span: bytes) -> bytes:
    """The piece that it asks for, which lies within the file."""
    if len(span) != SPAN.size:
        raise DecoderGone
    start, length = SPAN.unpack(span)
    if length > BLOCK_BYTES or start + length > source.size:
        raise DecoderGone
    try:
        async with asyncio.timeout(_SOURCE_SECONDS):
            return await source.read(start, length)
    except TimeoutError as error:
        # Not the decoder's fault, nor the file's.
        raise MediaBusy(retry_after=_RETRY_SECONDS) from error
