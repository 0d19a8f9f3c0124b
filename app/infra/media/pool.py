"""A few decoder processes of one kind, started when first needed, ended when idle, replaced when worn or broken."""

import asyncio
from collections import OrderedDict

import structlog

from app.infra.media.decoder import (
    Decoder,
    DecoderGone,
    DecoderKilled,
    DecoderStalled,
    Result,
)
from app.infra.media.port import (
    MediaBroken,
    MediaBusy,
    MediaError,
    MediaSource,
    MediaTimeout,
)

# Whoever comes when so many wait for each process would wait for longer than clients do.
_MAX_WAITING = 32
_WAIT_SECONDS = 30.0
_RETRY_SECONDS = 5
# A library that leaks does not leak for ever.
_MAX_JOBS = 200
_IDLE_SECONDS = 120.0
# One that crashes may have been worn by the files before; the second time it is the file.
_ATTEMPTS = 2
# A file under which decoders are killed or stand still, while others may be fine: so often, and for so long.
_MAX_HINDERED = 10
_HINDERED_SECONDS = 600.0
_MOST_HINDERED_FILES = 1_000

log = structlog.stdlib.get_logger("app.media")


class DecoderPool:
    """Belongs to one event loop."""

    def __init__(self, module: str, *, processes: int, cpu_seconds: int) -> None:
        """`cpu_seconds`: the most that one job may take."""
        self._module = module
        self._cpu_seconds = cpu_seconds
        self._turns = asyncio.Semaphore(processes)
        self._max_waiting = _MAX_WAITING * processes
        self._waiting = 0
        self._idle: list[tuple[Decoder, asyncio.TimerHandle]] = []
        self._decoders: set[Decoder] = set()
        # How often, and since when, by the names of the files.
        self._hindered: OrderedDict[str, tuple[int, float]] = OrderedDict()

    @property
    def pids(self) -> list[int]:
        return [decoder.pid for decoder in self._decoders]

    async def run(self, source: MediaSource, *, format: str, name: str = "") -> Result:  # noqa: A002 - a decoder's word
        """`name`: the same whenever this file is tried again, "" if it never is. What hinders a decoder from outside
        is no fault of the file's, unless it happens to this one again and again.

        Raises:
            MediaBroken, MediaTooLarge, MediaTimeout
            MediaBusy: media_busy
        """
        await self._take_turn()
        try:
            result = await self._run_again(source, format)
        except (DecoderKilled, DecoderStalled) as error:
            if self._is_always_hindered(name):
                raise MediaBroken from error
            raise MediaBusy(retry_after=_RETRY_SECONDS) from error
        finally:
            self._turns.release()
        self._hindered.pop(name, None)
        return result

    async def close(self) -> None:
        """End all processes, whatever they are at."""
        decoders = list(self._decoders)
        for decoder in decoders:
            self._end(decoder)
        for _, timer in self._idle:
            timer.cancel()
        self._idle.clear()
        for decoder in decoders:
            await decoder.wait()

    async def _take_turn(self) -> None:
        if self._waiting >= self._max_waiting:
            raise MediaBusy(retry_after=_RETRY_SECONDS)
        self._waiting += 1
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError as error:
            raise MediaBusy(retry_after=_RETRY_SECONDS) from error
        finally:
            self._waiting -= 1

    async def _run_again(self, source: MediaSource, format: str) -> Result:  # noqa: A002 - see above
        """Raises, beside what `run` does:
        DecoderKilled, DecoderStalled
        """
        was_killed = False
        for _ in range(_ATTEMPTS):
            try:
                return await self._run_once(source, format)
            except DecoderStalled:
                # Whoever waits for it has done so for long.
                log.warning("media_process_stalled", kind=self._module)
                raise
            except DecoderGone as gone:
                was_killed = was_killed or isinstance(gone, DecoderKilled)
                log.warning("media_process_died", kind=self._module, was_killed=was_killed)
        if was_killed:
            raise DecoderKilled
        raise MediaBroken

    def _is_always_hindered(self, name: str) -> bool:
        if not name:
            return False
        now = asyncio.get_running_loop().time()
        count, since = self._hindered.pop(name, (0, now))
        if count + 1 >= _MAX_HINDERED and now - since >= _HINDERED_SECONDS:
            log.warning("media_given_up", kind=self._module)
            return True
        self._hindered[name] = (count + 1, since)
        if len(self._hindered) > _MOST_HINDERED_FILES:
            self._hindered.popitem(last=False)
        return False

    async def _run_once(self, source: MediaSource, format: str) -> Result:  # noqa: A002 - see above
        decoder = await self._find()
        is_sound = False
        try:
            result = await decoder.run(source, format=format, cpu_seconds=self._cpu_seconds)
            is_sound = True
        except MediaError as error:
            is_sound = not isinstance(error, MediaTimeout)
            raise
        finally:
            # Also when whoever waits for it is gone: it would answer the next one with what this one asked.
            if is_sound and decoder.jobs < _MAX_JOBS:
                self._rest(decoder)
            else:
                self._end(decoder)
        return result

    async def _find(self) -> Decoder:
        if self._idle:
            decoder, timer = self._idle.pop()
            timer.cancel()
            return decoder
        try:
            decoder = await Decoder.start(self._module)
        except DecoderGone as error:
            log.exception("media_process_not_started", kind=self._module)
            raise MediaBusy(retry_after=_RETRY_SECONDS) from error
        if not decoder.is_locked:
            log.warning("media_process_not_locked", kind=self._module)
        self._decoders.add(decoder)
        return decoder

    def _rest(self, decoder: Decoder) -> None:
        timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._end_idle, decoder)
        self._idle.append((decoder, timer))

    def _end_idle(self, decoder: Decoder) -> None:
        self._idle = [entry for entry in self._idle if entry[0] is not decoder]
        self._end(decoder)

    def _end(self, decoder: Decoder) -> None:
        decoder.kill()
        self._decoders.discard(decoder)
