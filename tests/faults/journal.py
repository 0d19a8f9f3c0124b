"""Every call of every client and what came of it, on disk before anybody acts on the answer.

The file is only ever appended to. What the checkers judge is read back from it, so that a suite
that is killed itself leaves the same evidence as one that ends.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

_BATCH_SECONDS = 0.005


class Outcome(StrEnum):
    """`FAIL`: definitely refused. `UNKNOWN`: no answer, so it may have happened or not."""

    OK = "ok"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Call:
    """One call. `about`: what was asked; `answer`: what came back; times are seconds of the journal."""

    id: int
    device: str
    user_id: int
    action: str
    about: Mapping[str, Any]
    asked_at: float
    outcome: Outcome = Outcome.UNKNOWN
    answer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    answered_at: float | None = None


class Journal:
    """Append-only. `end` returns only when the answer is on disk; many ends share one fsync."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.calls: list[Call] = []
        # Never that of an earlier run: its calls would be judged by another log.
        self._file = path.open("xb", buffering=0)
        self._began = time.monotonic()
        self._buffer: list[bytes] = []
        self._written: asyncio.Future[None] | None = None
        self._flushers: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def now(self) -> float:
        return time.monotonic() - self._began

    def begin(self, device: str, user_id: int, action: str, **about: Any) -> Call:
        """Note that a call is about to be made; it reaches the disk no later than its answer."""
        call = Call(len(self.calls), device, user_id, action, about, round(self.now(), 4))
        self.calls.append(call)
        self._buffer.append(
            _line(
                {
                    "call": call.id,
                    "device": device,
                    "user_id": user_id,
                    "action": action,
                    "about": about,
                    "at": call.asked_at,
                }
            )
        )
        return call

    async def end(self, call: Call, outcome: Outcome, **answer: Any) -> None:
        """Note what came of it. Return when that is on disk: only then has the client seen it."""
        call.outcome, call.answer, call.answered_at = outcome, answer, round(self.now(), 4)
        self._buffer.append(
            _line({"end": call.id, "outcome": outcome, "answer": answer, "at": call.answered_at})
        )
        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
            flusher = asyncio.create_task(self._flush_soon(self._written))
            self._flushers.add(flusher)
            flusher.add_done_callback(self._flushers.discard)
        await asyncio.shield(self._written)

    async def close(self) -> None:
        if self._flushers:
            await asyncio.wait(self._flushers)
        if not self._file.closed:
            self._write(b"".join(self._buffer))
            self._buffer.clear()
            self._file.close()

    async def _flush_soon(self, written: "asyncio.Future[None]") -> None:
        await asyncio.sleep(_BATCH_SECONDS)
        async with self._turn:
            data, self._buffer = b"".join(self._buffer), []
            self._written = None
            await asyncio.to_thread(self._write, data)
        written.set_result(None)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        os.fsync(self._file.fileno())


def read_journal(path: Path) -> list[Call]:
    """The calls as they stand on disk; a call without an answer is unknown, a torn last line is none."""
    calls: dict[int, Call] = {}
    for entry in _entries(path):
        if "call" in entry:
            calls[entry["call"]] = Call(
                entry["call"],
                entry["device"],
                entry["user_id"],
                entry["action"],
                entry["about"],
                entry["at"],
            )
        else:
            call = calls[entry["end"]]
            call.outcome = Outcome(entry["outcome"])
            call.answer = entry["answer"]
            call.answered_at = entry["at"]
    return list(calls.values())


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        yield entry


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
