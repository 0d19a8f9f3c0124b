"""Verify the chain: finds an edit, a deletion, an insertion, and a tail that was cut off.

A row that was put into the queue from outside is in the chain like any other, but without the MAC of a
server. Rows from before there were MACs have none: all that stand before the first one that has.

What nobody can find from inside is a chain that was written anew from some row on, together with the
last link in `server_state`: against that a head that was kept elsewhere is looked up in the chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import func, select

from app.features.audit.chain import (
    CHECKPOINT_NAME,
    COLUMNS,
    HEAD_NAME,
    START,
    Link,
    is_genuine,
    mac_key,
    next_link,
    read_link,
)
from app.features.audit.models import AuditEventRow
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import LONG_SECONDS, SCAN_SECONDS, Database
from app.infra.database.tx import Tx

PRUNED = "audit_pruned"
_PAGE = 1_000
_MAX_FAULTS = 20


@dataclass(slots=True)
class Verdict:
    """`faults`: one sentence each, the first twenty; none: the chain is whole. `checked`: rows."""

    checkpoint: Link
    head: Link
    checked: int = 0
    queued: int = 0
    faults: list[str] = field(default_factory=list[str])

    def blame(self, fault: str) -> None:
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append(fault)


async def verify_chain(db: Database, keyring: Keyring, *, kept_head: str | None = None) -> Verdict:
    """Walk the whole chain. `kept_head`: a hash, or `seq:hash`, from the log or wherever it was kept."""
    key = mac_key(keyring)
    verdict = await _walk(db, key, kept_head)
    # Retention, which deletes rows while they are read, leaves a younger checkpoint: look again.
    if await _read_checkpoint(db) != verdict.checkpoint:
        verdict = await _walk(db, key, kept_head)
    await _look_beyond(db, verdict)
    return verdict


async def _read_checkpoint(db: Database) -> Link:
    return await db.read(lambda tx: read_link(tx, CHECKPOINT_NAME), timeout_seconds=LONG_SECONDS)


async def _read_ends(tx: Tx) -> tuple[Link, Link]:
    """The checkpoint first: what is chained meanwhile is behind the head."""
    return await read_link(tx, CHECKPOINT_NAME), await read_link(tx, HEAD_NAME)


async def _walk(db: Database, key: bytes, kept_head: str | None) -> Verdict:
    checkpoint, head = await db.read(_read_ends, timeout_seconds=LONG_SECONDS)
    verdict = Verdict(checkpoint, head)
    seen = _Seen(kept_head, is_checkpoint_recorded=checkpoint == START)
    seen.look_at_link(checkpoint)
    last = checkpoint
    while page := await db.read(
        lambda tx, after=last.seq: _read_page(tx, after, head.seq), timeout_seconds=LONG_SECONDS
    ):
        for row in page:
            last = _check(verdict, last, row)
            seen.look_at_mac(verdict, key, row)
            seen.look_at(row, checkpoint)
    if last != head:
        verdict.blame(
            f"The newest row is {last.seq}, but the chain went up to {head.seq}: its tail was cut off"
        )
    if not seen.is_checkpoint_recorded:
        verdict.blame(
            f"Rows up to {checkpoint.seq} are gone, and no row of the chain says that retention"
            " deleted them"
        )
    _judge_kept_head(verdict, seen)
    return verdict


class _Seen:
    """What is looked for on the way along the chain."""

    def __init__(self, kept_head: str | None, *, is_checkpoint_recorded: bool) -> None:
        self.kept_head = kept_head
        self.kept_seq = None
        self.kept_hash = (kept_head or "").strip().lower()
        if ":" in self.kept_hash:
            seq, _, self.kept_hash = self.kept_hash.partition(":")
            self.kept_seq = int(seq) if seq.isdecimal() else -1
        self.is_kept_head_found = False
        self.is_checkpoint_recorded = is_checkpoint_recorded
        self.is_keyed = False

    def look_at_mac(self, verdict: Verdict, key: bytes, row: Any) -> None:
        if is_genuine(key, row):
            self.is_keyed = True
        elif self.is_keyed or row.mac is not None:
            verdict.blame(f"Row {row.seq} ({row.name}) was written by none of our servers")

    def look_at_link(self, link: Link) -> None:
        if link.hash.hex() == self.kept_hash and self.kept_seq in {None, link.seq}:
            self.is_kept_head_found = True

    def look_at(self, row: Any, checkpoint: Link) -> None:
        self.look_at_link(Link(row.seq, row.hash))
        if row.name == PRUNED and row.details == render_checkpoint(checkpoint):
            self.is_checkpoint_recorded = True


def render_checkpoint(link: Link) -> str:
    """The `details` of the row by which retention tells what it deleted."""
    return orjson.dumps(checkpoint_details(link), option=orjson.OPT_SORT_KEYS).decode()


def checkpoint_details(link: Link) -> dict[str, str | int | bool | None]:
    return {"up_to_seq": link.seq, "up_to_hash": link.hash.hex()}


async def _read_page(tx: Tx, after: int, up_to: int) -> Sequence[Any]:
    statement = select(*COLUMNS).where(AuditEventRow.seq > after, AuditEventRow.seq <= up_to)
    return await tx.all(statement.order_by(AuditEventRow.seq).limit(_PAGE))


def _check(verdict: Verdict, last: Link, row: Any) -> Link:
    verdict.checked += 1
    found = Link(row.seq, row.hash or b"")
    if row.seq != last.seq + 1:
        verdict.blame(f"Rows {last.seq + 1} to {row.seq - 1} are missing")
    elif next_link(last, row) != found:
        verdict.blame(f"Row {row.seq} ({row.name}) or the one before it was changed")
    return found


async def _look_beyond(db: Database, verdict: Verdict) -> None:
    """Rows that claim a place which nobody gave them; the chain may have grown meanwhile."""

    async def work(tx: Tx) -> tuple[int, int]:
        newest = await tx.scalar(select(func.max(AuditEventRow.seq)))
        now = await read_link(tx, HEAD_NAME)
        queued = await tx.scalar(
            select(func.count()).select_from(AuditEventRow).where(AuditEventRow.seq.is_(None))
        )
        verdict.queued = queued or 0
        return newest or 0, now.seq

    newest, now = await db.read(work, timeout_seconds=SCAN_SECONDS)
    if newest > max(now, verdict.head.seq):
        verdict.blame(f"Rows after {max(now, verdict.head.seq)} were put in from outside")


def _judge_kept_head(verdict: Verdict, seen: _Seen) -> None:
    if seen.kept_head is None or seen.is_kept_head_found:
        return
    if seen.kept_seq is not None and 0 <= seen.kept_seq < verdict.checkpoint.seq:
        verdict.blame(
            f"The head that was kept is row {seen.kept_seq}, which retention has deleted:"
            " hold a younger one against the chain"
        )
    else:
        verdict.blame(
            "The head that was kept elsewhere is not in this chain: it was cut off or written anew"
        )
