"""End sessions: from the commit on their refresh tokens and tickets are gone, and within a second
their access tokens and sockets on every worker.
"""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select, update

from app.features.audit.record import record
from app.features.sessions.errors import SessionNotFound, TokenRefused
from app.features.sessions.models import RefreshTokenRow, RevocationRow, SessionRow, TicketRow
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import ScopeLog, lock_scopes
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from app.kernel.ids import SessionId, UserId
from app.kernel.scopes import user_scope


async def log_out(
    db: Database,
    revocations: RevocationList,
    *,
    user_id: UserId,
    session_id: SessionId,
) -> None:
    """End the caller's own session.

    Raises:
        TokenRefused: somebody was faster; it is over.
    """
    if not await db.write(lambda tx: _end_one(tx, revocations, user_id, session_id)):
        raise TokenRefused


async def end_session(
    db: Database,
    revocations: RevocationList,
    *,
    user_id: UserId,
    session_id: SessionId,
) -> None:
    """End one of the user's sessions.

    Raises:
        SessionNotFound: it never was, is somebody else's, or has ended.
    """
    if not await db.write(lambda tx: _end_one(tx, revocations, user_id, session_id)):
        raise SessionNotFound


async def end_other_sessions(
    db: Database,
    revocations: RevocationList,
    *,
    user_id: UserId,
    session_id: SessionId,
) -> None:
    """End all sessions of the user but `session_id`."""

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [user_scope(user_id)])
        await end_all_sessions(tx, log, revocations=revocations, user_id=user_id, but=session_id)

    await db.write(work)


async def _end_one(
    tx: Tx, revocations: RevocationList, user_id: UserId, session_id: SessionId
) -> bool:
    """Whether this call ended it."""
    log = await lock_scopes(tx, [user_scope(user_id)])
    ended = await end_sessions(
        tx, log, revocations=revocations, user_id=user_id, session_ids=[session_id]
    )
    return bool(ended)


async def end_all_sessions(
    tx: Tx,
    log: ScopeLog,
    *,
    revocations: RevocationList,
    user_id: UserId,
    but: SessionId | None = None,
) -> Sequence[SessionId]:
    """As `end_sessions`, for every session of the user."""
    live = await tx.scalars(
        select(SessionRow.id).where(SessionRow.user_id == user_id, SessionRow.revoked_at.is_(None))
    )
    others = [session_id for session_id in live if session_id != but]
    return await end_sessions(tx, log, revocations=revocations, user_id=user_id, session_ids=others)


async def end_sessions(
    tx: Tx,
    log: ScopeLog,
    *,
    revocations: RevocationList,
    user_id: UserId,
    session_ids: Sequence[SessionId],
) -> Sequence[SessionId]:
    """End those of `session_ids` that are the user's and not over. `log` holds the user's scope.

    Returns:
        The ones that this call ended.
    """
    if not session_ids:
        return []
    ended = await tx.scalars(
        update(SessionRow)
        .where(
            SessionRow.id.in_(session_ids),
            SessionRow.user_id == user_id,
            SessionRow.revoked_at.is_(None),
            SessionRow.idle_expires_at > tx.now,
        )
        .values(revoked_at=tx.now)
        .returning(SessionRow.id)
    )
    if not ended:
        return []
    for table in (RefreshTokenRow, TicketRow):
        await tx.execute(delete(table).where(table.session_id.in_(ended)))
    await tx.execute(
        insert(RevocationRow),
        [{"session_id": session_id, "revoked_at": tx.now} for session_id in ended],
    )
    content = {"opened": [], "ended": sorted(ended)}
    log.append(user_scope(user_id), "sessions_changed", data=content, content=content)
    for session_id in sorted(ended):
        record(tx, SecurityEvent("session_ended", user_id, session_id))
    tx.after_commit(lambda: revocations.announce(ended))
    return ended
