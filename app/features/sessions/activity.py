"""When a session was last used: noted in memory, written at most once a minute."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import bindparam, update

from app.features.sessions.models import SessionRow
from app.infra.database.columns import Timestamp
from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.tx import Tx
from app.kernel.ids import SessionId

FLUSH_INTERVAL = timedelta(seconds=10)
_RESOLUTION = timedelta(minutes=1)
_BATCH = 500

_SET_LAST_USED = (
    update(SessionRow)
    .where(
        SessionRow.id == bindparam("used_id"),
        # Several workers serve one session: the first to write speaks for that minute.
        SessionRow.last_used_at < bindparam("before", type_=Timestamp()),
    )
    .values(last_used_at=bindparam("used_at", type_=Timestamp()))
)


class Activity:
    """What this worker has seen since it last wrote."""

    def __init__(self) -> None:
        self._seen: dict[SessionId, datetime] = {}
        self._unwritten: dict[SessionId, datetime] = {}

    def touch(self, session_id: SessionId, now: datetime) -> None:
        seen = self._seen.get(session_id)
        if seen is None or now - seen >= _RESOLUTION:
            self._seen[session_id] = self._unwritten[session_id] = now

    async def flush(self, db: Database, now: datetime) -> None:
        """Write what is new; a failure costs a minute of precision, nothing more."""
        self._seen = {
            session_id: seen for session_id, seen in self._seen.items() if now - seen < _RESOLUTION
        }
        if not self._unwritten:
            return
        unwritten, self._unwritten = self._unwritten, {}
        rows: list[dict[str, object]] = [
            {"used_id": session_id, "used_at": used_at, "before": used_at - _RESOLUTION}
            for session_id, used_at in sorted(unwritten.items())
        ]

        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            await db.write(lambda tx, some=some: _write(tx, some), timeout_seconds=LONG_SECONDS)


async def _write(tx: Tx, rows: Sequence[dict[str, object]]) -> None:
    await tx.execute(_SET_LAST_USED, rows)
