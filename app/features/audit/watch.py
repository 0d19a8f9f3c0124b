"""Runs the detectors over the chain, on whichever worker is first, and queues their alerts.

The chain is the whole view: what each worker saw of an attack meets there. Every worker reads all of
it when its turn comes, and an alert that another has raised is in the table.
"""

from dataclasses import dataclass

from sqlalchemy import select

from app.features.audit.chain import COLUMNS
from app.features.audit.detectors import LONGEST, Alert, Detectors, Source, window_of
from app.features.audit.models import AuditEventRow
from app.features.audit.read import Filter, RecordedEvent, list_newest, open_rows
from app.features.audit.record import record
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.kernel.addresses import network_of
from app.kernel.events import SecurityEvent

WATCH_LOCK = "audit-watch"
_PAGE = 500
# Of the last hour, when a worker begins to watch.
_MAX_PAGES = 40
_MAX_ALERTS = 200


@dataclass(slots=True)
class _State:
    detectors: Detectors
    last_seq: int


class Watch:
    """One worker's detectors and how far in the chain they have read."""

    def __init__(self) -> None:
        self._state: _State | None = None

    async def look(self, tx: Tx, keyring: Keyring) -> None:
        """Feed what was chained since the last look. Repeatable: after a transaction that failed,
        everything is read again from the last hour on.
        """
        if not await tx.try_lock_names([WATCH_LOCK]):
            return
        state, self._state = self._state, None
        if state is None:
            state = _State(Detectors(), await _begin(tx))
        for _ in range(_MAX_PAGES):
            rows = await tx.all(
                select(*COLUMNS)
                .where(AuditEventRow.seq > state.last_seq)
                .order_by(AuditEventRow.seq)
                .limit(_PAGE)
            )
            for event in await open_rows(tx, keyring, rows):
                for alert in state.detectors.feed(event):
                    await _raise(tx, keyring, alert, event)
            if rows:
                state.last_seq = rows[-1].seq
            if len(rows) < _PAGE:
                break
        tx.after_commit(lambda: self._keep(state))

    def _keep(self, state: _State) -> None:
        self._state = state


async def _begin(tx: Tx) -> int:
    """The row before the last hour, or before as much of it as is read at once."""
    newest = await tx.scalar(
        select(AuditEventRow.seq)
        .where(AuditEventRow.seq.is_not(None), AuditEventRow.at < tx.now - LONGEST)
        .order_by(AuditEventRow.seq.desc())
        .limit(1)
    )
    last = await tx.scalar(
        select(AuditEventRow.seq)
        .where(AuditEventRow.seq.is_not(None))
        .order_by(AuditEventRow.seq.desc())
        .limit(1)
    )
    return max(newest or 0, (last or 0) - _MAX_PAGES * _PAGE)


async def _raise(tx: Tx, keyring: Keyring, alert: Alert, cause: RecordedEvent) -> None:
    """Unless this source was told of within the window, by this worker or another."""
    window = window_of(alert.name)
    if cause.at < tx.now - window or _is_raised_in(tx, alert):
        return
    wanted = Filter(name=alert.name, user_id=alert.source.user_id, since=tx.now - window)
    before = await list_newest(tx, keyring, wanted, limit=_MAX_ALERTS)
    if any((event.name, _source_of(event)) == (alert.name, alert.source) for event in before):
        return
    source = alert.source
    record(
        tx,
        SecurityEvent(
            alert.name,
            source.user_id,
            cause.session_id if source.user_id is not None else None,
            details={"seen": alert.seen, "cause": cause.name},
            subject=source.subject,
            phone_index=_index_of(source),
            address=None if source == Source() else source.network or cause.address,
            request_id=cause.request_id,
        ),
    )


def _is_raised_in(tx: Tx, alert: Alert) -> bool:
    source = alert.source
    return any(
        (event.name, event.user_id, event.subject, event.phone_index)
        == (alert.name, source.user_id, source.subject, _index_of(source))
        and (source.network is None or event.address == source.network)
        for event in tx.security_events
    )


def _index_of(source: Source) -> bytes | None:
    return None if source.phone is None else bytes.fromhex(source.phone)


def _source_of(event: RecordedEvent) -> Source:
    if event.user_id is not None:
        return Source(user_id=event.user_id)
    if event.phone_id is not None:
        return Source(phone=next(iter(event.subjects), None))
    if event.subjects:
        return Source(subject=event.subjects[0])
    return Source(network=network_of(event.address) if event.address else None)
