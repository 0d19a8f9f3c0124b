"""The chain: each row's hash covers the row and the hash before it, so that no edit, no deletion and
no insertion in between goes unseen.

The hash covers ciphertext: whoever destroys a person's key leaves the chain whole. It is not keyed:
what protects the newest end is a head that is kept elsewhere (the hourly line of the log). What is
keyed is each row by itself, from the moment on at which it is queued: one that was put in from outside
is chained as it stands, so that it is not lost, and told.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import bindparam, select, update

from app.features.audit.models import AuditEventRow, AuditTotalRow
from app.features.audit.record import record
from app.infra.cipher.keyring import Keyring
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore, upsert
from app.kernel.clock import to_milliseconds
from app.kernel.events import SecurityEvent

BATCH = 500
FORGED = "alert_forged_event"
CHAIN_LOCK = "audit-chain"
HEAD_NAME = "audit_head"
CHECKPOINT_NAME = "audit_checkpoint"
COLUMNS = (
    AuditEventRow.id,
    AuditEventRow.seq,
    AuditEventRow.hash,
    AuditEventRow.name,
    AuditEventRow.at,
    AuditEventRow.count,
    AuditEventRow.user_id,
    AuditEventRow.session_id,
    AuditEventRow.request_id,
    AuditEventRow.details,
    AuditEventRow.personal,
    AuditEventRow.phone_id,
    AuditEventRow.mac,
)
_MAC_PURPOSE = "audit-events"

_QUEUED = select(*COLUMNS).where(AuditEventRow.seq.is_(None)).order_by(AuditEventRow.id)
_CHAIN = (
    update(AuditEventRow)
    .where(AuditEventRow.id == bindparam("row_id"))
    .values(seq=bindparam("next_seq"), hash=bindparam("next_hash"))
)
_COUNT = (
    update(AuditTotalRow)
    .where(AuditTotalRow.name == bindparam("counted"))
    .values(total=AuditTotalRow.total + bindparam("more"))
)


@dataclass(frozen=True, slots=True)
class Link:
    """An end of the chain: the row `seq` and its hash; 0 is the beginning, before any row."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


START = Link(0, bytes(32))


def next_link(last: Link, row: Any) -> Link:
    """The link of `row` (its `COLUMNS`) after `last`."""
    content = [1, last.seq + 1, *_content(row)]
    if row.mac is not None:
        content = [2, *content[1:], row.phone_id, row.mac.hex()]
    return Link(last.seq + 1, hashlib.sha256(last.hash + orjson.dumps(content)).digest())


def mac_of(key: bytes, row: Any) -> bytes:
    """Proves that a server of this installation queued `row`, whose `COLUMNS` are set but for its place
    in the chain. `key`: see `mac_key`.
    """
    return hmac.digest(key, orjson.dumps([1, *_content(row), row.phone_id]), hashlib.sha256)


def mac_key(keyring: Keyring) -> bytes:
    return keyring.derive(_MAC_PURPOSE)


def is_genuine(key: bytes, row: Any) -> bool:
    return row.mac is not None and hmac.compare_digest(row.mac, mac_of(key, row))


def _content(row: Any) -> list[object]:
    return [
        row.id,
        row.name,
        to_milliseconds(row.at),
        row.count,
        row.user_id,
        row.session_id,
        row.request_id,
        row.details,
        None if row.personal is None else row.personal.hex(),
    ]


async def has_queued(tx: Tx) -> bool:
    queued = select(AuditEventRow.id).where(AuditEventRow.seq.is_(None)).limit(1)
    return await tx.scalar(queued) is not None


async def append_queued(tx: Tx, keyring: Keyring) -> int:
    """Chain what is queued, at most `BATCH` rows. One process at a time: the others do nothing. A row that
    no server has queued raises an alert; `verify` names it for as long as it is there.

    The last link comes from `server_state`, not from the newest row: a tail that was cut off leaves
    a hole then, not a shorter chain.

    Returns:
        How many were chained.
    """
    if not await tx.try_lock_names([CHAIN_LOCK]):
        return 0
    rows = await tx.all(_QUEUED.limit(BATCH))
    if not rows:
        return 0
    last = await read_link(tx, HEAD_NAME)
    await _tell_forged(tx, mac_key(keyring), rows, after=last.seq)
    changes: list[dict[str, object]] = []
    for row in rows:
        last = next_link(last, row)
        changes.append({"row_id": row.id, "next_seq": last.seq, "next_hash": last.hash})
    await tx.execute(_CHAIN, changes)
    await write_link(tx, HEAD_NAME, last)
    await _count(tx, rows)
    return len(rows)


async def _tell_forged(tx: Tx, key: bytes, rows: Sequence[Any], *, after: int) -> None:
    forged = [row.id for row in rows if not is_genuine(key, row)]
    if not forged:
        return
    # Rows that a server of before there were MACs has left in the queue are no forgeries.
    if all(row.mac is None for row in rows):
        newest = await tx.first(select(AuditEventRow.mac).where(AuditEventRow.seq == after))
        if newest is not None and newest.mac is None:
            return
    record(tx, SecurityEvent(FORGED, details={"rows": len(forged), "first_id": forged[0]}))


async def read_link(tx: Tx, name: str) -> Link:
    """HEAD_NAME: the newest link. CHECKPOINT_NAME: the last one that retention has deleted."""
    value = await tx.scalar(select(ServerStateRow.value).where(ServerStateRow.name == name))
    return START if value is None else parse_link(value)


async def write_link(tx: Tx, name: str, link: Link) -> None:
    row = {"name": name, "value": str(link)}
    await upsert(tx, ServerStateRow, [row], index=["name"], update=["value"])


def parse_link(text: str) -> Link:
    """What `str` of a link gave.

    Raises:
        ValueError: it is none.
    """
    seq, _, digest = text.partition(":")
    return Link(int(seq), bytes.fromhex(digest))


async def _count(tx: Tx, rows: Sequence[Any]) -> None:
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row.name] += row.count
    names = sorted(totals)
    zeros = [{"name": name, "total": 0} for name in names]
    await insert_ignore(tx, AuditTotalRow, zeros, index=["name"])
    await tx.execute(_COUNT, [{"counted": name, "more": totals[name]} for name in names])
