"""List my devices."""

from typing import TypedDict

from sqlalchemy import select

from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.models import SessionRow
from app.features.sessions.open import DEVICE_NAME_PLACE, PLACE_PLACE
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.cipher.revisions import revision_of
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.clock import format_time
from app.kernel.cursors import CursorCodec
from app.kernel.ids import SessionId

_CURSOR = "sessions"


class SessionView(TypedDict):
    id: SessionId
    kind: str
    device_name: str | None
    place: str | None
    created_at: str
    last_used_at: str
    expires_at: str
    is_current: bool


class SessionPage(TypedDict):
    items: list[SessionView]
    next_cursor: str | None


async def list_sessions(
    db: Database,
    keyring: Keyring,
    cursors: CursorCodec,
    *,
    caller: CurrentSession,
    limit: int,
    cursor: str | None,
) -> SessionPage:
    """Live sessions, the newest first."""
    before = cursors.decode(_CURSOR, cursor)[0] if cursor else None

    async def work(tx: Tx) -> SessionPage:
        statement = (
            select(
                SessionRow.id,
                SessionRow.kind,
                SessionRow.device_name,
                SessionRow.place,
                SessionRow.created_at,
                SessionRow.last_used_at,
                SessionRow.idle_expires_at,
                revision_of(SessionRow, SessionRow.id).label("revision"),
            )
            .where(
                SessionRow.user_id == caller.user_id,
                SessionRow.revoked_at.is_(None),
                SessionRow.idle_expires_at > tx.now,
            )
            .order_by(SessionRow.id.desc())
            .limit(limit + 1)
        )
        if before is not None:
            statement = statement.where(SessionRow.id < before)
        rows = await tx.all(statement)
        key = await keyring.require(tx, user_key(caller.user_id))
        table, column = DEVICE_NAME_PLACE
        items = [
            SessionView(
                id=row.id,
                kind=row.kind,
                device_name=key.find_text(
                    row.device_name, table=table, column=column, row_id=row.id
                ),
                place=key.find_text(
                    row.place,
                    table=PLACE_PLACE[0],
                    column=PLACE_PLACE[1],
                    row_id=row.id,
                    revision=row.revision,
                ),
                created_at=format_time(row.created_at),
                last_used_at=format_time(row.last_used_at),
                expires_at=format_time(row.idle_expires_at),
                is_current=row.id == caller.session_id,
            )
            for row in rows[:limit]
        ]
        more = len(rows) > limit
        return SessionPage(
            items=items, next_cursor=cursors.encode(_CURSOR, [items[-1]["id"]]) if more else None
        )

    return await db.read(work)
