"""Open a session: a device is signed in, all other devices of the user are told."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import insert, select

from app.features.sessions.end import end_sessions
from app.features.sessions.models import RefreshTokenRow, SessionRow
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import ScopeLog
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.database.tx import Tx
from app.infra.tokens.access import AccessTokens
from app.infra.tokens.opaque import Purpose, hash_token, new_token
from app.kernel.addresses import place_of
from app.kernel.ids import SessionId, UserId
from app.kernel.scopes import user_scope
from app.settings import TokenSettings

MAX_SESSIONS = 50
DEVICE_NAME_PLACE = ("sessions", "device_name")
PLACE_PLACE = ("sessions", "place")


@dataclass(frozen=True, slots=True)
class SessionTokens:
    """What a device gets. `expires_in`: seconds of the access token."""

    session_id: SessionId
    access_token: str
    refresh_token: str
    expires_in: int


async def open_session(
    tx: Tx,
    log: ScopeLog,
    *,
    keyring: Keyring,
    tokens: AccessTokens,
    revocations: RevocationList,
    limits: TokenSettings,
    user_id: UserId,
    device_name: str | None,
    address: str | None = None,
    kind: str = "app",
) -> SessionTokens:
    """Sign a device in from `address` (an IP). `log` holds the lock of the user's scope, so that
    `MAX_SESSIONS` is exact: at the cap the session that was unused for longest ends.
    """
    await _make_room(tx, log, revocations=revocations, user_id=user_id)
    session_id = SessionId((await tx.reserve_ids(SessionRow, 1))[0])
    key = await keyring.require(tx, user_key(user_id))
    table, column = DEVICE_NAME_PLACE
    sealed = key.seal_text(
        device_name, table=table, column=column, row_id=session_id, encrypt=keyring.personal
    )
    table, column = PLACE_PLACE
    place = key.seal_text(
        place_of(address) if address else None,
        table=table,
        column=column,
        row_id=session_id,
        encrypt=keyring.personal,
    )
    expires_at = tx.now + timedelta(days=limits.refresh_total_days)
    idle_expires_at = min(tx.now + timedelta(days=limits.refresh_idle_days), expires_at)
    await tx.execute(
        insert(SessionRow).values(
            id=session_id,
            user_id=user_id,
            kind=kind,
            device_name=sealed,
            created_at=tx.now,
            last_used_at=tx.now,
            idle_expires_at=idle_expires_at,
            expires_at=expires_at,
            authenticated_at=tx.now,
            place=place,
        )
    )
    refresh_token = new_token(Purpose.REFRESH)
    await tx.execute(
        insert(RefreshTokenRow).values(
            hash=hash_token(refresh_token, Purpose.REFRESH),
            session_id=session_id,
            created_at=tx.now,
            expires_at=idle_expires_at,
        )
    )
    content = {"opened": [session_id], "ended": []}
    log.append(user_scope(user_id), "sessions_changed", data=content, content=content)
    access = tokens.issue(user_id=user_id, session_id=session_id, lifetime=idle_expires_at - tx.now)
    return SessionTokens(session_id, access.token, refresh_token, access.expires_in)


async def _make_room(
    tx: Tx, log: ScopeLog, *, revocations: RevocationList, user_id: UserId
) -> None:
    live = await tx.scalars(
        select(SessionRow.id)
        .where(
            SessionRow.user_id == user_id,
            SessionRow.revoked_at.is_(None),
            SessionRow.idle_expires_at > tx.now,
        )
        .order_by(SessionRow.last_used_at, SessionRow.id)
    )
    surplus = live[: max(0, len(live) - MAX_SESSIONS + 1)]
    await end_sessions(tx, log, revocations=revocations, user_id=user_id, session_ids=surplus)
