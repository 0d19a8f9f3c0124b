"""Refresh: every use of a refresh token replaces it; whoever replays a used one ends the session.

A client whose answer was lost may ask again: for 30 s the same parent fetches the same successor,
while that is unused. Any other replay means that two parties hold the token, and there is no
telling which of them is the thief (RFC 9700, 4.14.2).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from sqlalchemy import insert, select, update

from app.features.audit.record import record
from app.features.sessions.end import end_sessions
from app.features.sessions.errors import RefreshTokenInvalid
from app.features.sessions.models import RefreshTokenRow, SessionRow
from app.features.sessions.open import PLACE_PLACE, SessionTokens
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import lock_scopes
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.cipher.revisions import raise_revision, revision_of
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.tokens.access import AccessTokens
from app.infra.tokens.opaque import Purpose, hash_token, new_token
from app.kernel.addresses import place_of
from app.kernel.events import SecurityEvent
from app.kernel.ids import SessionId, UserId
from app.kernel.scopes import user_scope
from app.settings import TokenSettings

RETRY_WINDOW = timedelta(seconds=30)
# Used tokens are kept this long to recognise a replay; after it they are as unknown as any other.
REPLAY_MEMORY = timedelta(days=7)


class _Verdict(Enum):
    ROTATE = auto()
    REPEAT = auto()
    REFUSE = auto()
    REPLAYED = auto()


@dataclass(frozen=True, slots=True)
class _Presented:
    """The presented token and its session, read under the session's lock."""

    hash: bytes
    session_id: SessionId
    user_id: UserId
    parent_hash: bytes | None
    expires_at: datetime
    used_at: datetime | None
    successor: bytes | None
    session_expires_at: datetime
    idle_expires_at: datetime
    revoked_at: datetime | None


async def refresh_session(
    db: Database,
    keyring: Keyring,
    *,
    tokens: AccessTokens,
    revocations: RevocationList,
    limits: TokenSettings,
    refresh_token: str,
    address: str | None = None,
) -> SessionTokens:
    """A new pair for a refresh token that comes from `address` (an IP).

    Raises:
        RefreshTokenInvalid: unknown, expired, of an ended session, or replayed.
    """
    token_hash = hash_token(refresh_token, Purpose.REFRESH)
    if token_hash is None:
        raise RefreshTokenInvalid

    async def work(tx: Tx) -> SessionTokens | RefreshTokenInvalid:
        presented = await _lock_and_read(tx, token_hash)
        verdict = _judge(presented, tx.now)
        if presented is None or verdict is _Verdict.REFUSE:
            return RefreshTokenInvalid()
        if verdict is _Verdict.REPLAYED:
            return await _end_replayed(tx, revocations, presented)
        if verdict is _Verdict.REPEAT:
            token = await _open_successor(tx, keyring, presented)
        else:
            token = await _rotate(tx, keyring, presented, limits, address)
        return _issue(tx, tokens, presented, token)

    outcome = await db.write(work)
    if isinstance(outcome, RefreshTokenInvalid):
        # The end of the session had to be committed, so the refusal comes only now.
        raise outcome
    return outcome


async def find_refreshable_session(db: Database, refresh_token: str) -> SessionId | None:
    """The session whose token this is or was, while it lives. Uses nothing up."""
    token_hash = hash_token(refresh_token, Purpose.REFRESH)
    if token_hash is None:
        return None

    async def work(tx: Tx) -> SessionId | None:
        return await tx.scalar(
            select(RefreshTokenRow.session_id)
            .join(SessionRow, SessionRow.id == RefreshTokenRow.session_id)
            .where(RefreshTokenRow.hash == token_hash, SessionRow.revoked_at.is_(None))
        )

    return await db.read(work)


async def _lock_and_read(tx: Tx, token_hash: bytes) -> _Presented | None:
    """Uses of one session's tokens go one after the other: parallel ones leave one live branch."""
    session_id = await tx.scalar(
        select(RefreshTokenRow.session_id).where(RefreshTokenRow.hash == token_hash)
    )
    if session_id is None:
        return None
    await tx.lock_names([f"session:{session_id}"])
    row = await tx.first(
        select(
            RefreshTokenRow.hash,
            RefreshTokenRow.session_id,
            SessionRow.user_id,
            RefreshTokenRow.parent_hash,
            RefreshTokenRow.expires_at,
            RefreshTokenRow.used_at,
            RefreshTokenRow.successor,
            SessionRow.expires_at,
            SessionRow.idle_expires_at,
            SessionRow.revoked_at,
        )
        .join(SessionRow, SessionRow.id == RefreshTokenRow.session_id)
        .where(RefreshTokenRow.hash == token_hash)
    )
    return None if row is None else _Presented(*row)


def _judge(presented: _Presented | None, now: datetime) -> _Verdict:
    if presented is None or presented.revoked_at is not None:
        return _Verdict.REFUSE
    if presented.idle_expires_at <= now:
        return _Verdict.REFUSE
    if presented.used_at is None:
        return _Verdict.ROTATE if presented.expires_at > now else _Verdict.REFUSE
    # The successor is emptied when it is used, so one that is there is unused.
    if presented.successor is not None and now - presented.used_at <= RETRY_WINDOW:
        return _Verdict.REPEAT
    return _Verdict.REPLAYED


async def _rotate(
    tx: Tx, keyring: Keyring, presented: _Presented, limits: TokenSettings, address: str | None
) -> str:
    successor = new_token(Purpose.REFRESH)
    key = await keyring.require(tx, user_key(presented.user_id))
    # A token is sealed whatever ENCRYPT_PERSONAL_DATA says.
    sealed = key.seal_text(
        successor,
        table="refresh_tokens",
        column="successor",
        row_id=_row_id(presented.hash),
    )
    idle_expires_at = min(
        tx.now + timedelta(days=limits.refresh_idle_days), presented.session_expires_at
    )
    values: dict[str, object] = {"last_used_at": tx.now, "idle_expires_at": idle_expires_at}
    if address is not None:
        values |= await _move_place(tx, keyring, key, presented.session_id, place_of(address))
    # The session's row first, as ending a session does: the other order deadlocks with it.
    await tx.execute(update(SessionRow).where(SessionRow.id == presented.session_id).values(values))
    await tx.execute(
        update(RefreshTokenRow)
        .where(RefreshTokenRow.hash == presented.hash)
        .values(used_at=tx.now, successor=sealed, expires_at=tx.now + REPLAY_MEMORY)
    )
    if presented.parent_hash is not None:
        await tx.execute(
            update(RefreshTokenRow)
            .where(RefreshTokenRow.hash == presented.parent_hash)
            .values(successor=None)
        )
    await tx.execute(
        insert(RefreshTokenRow).values(
            hash=hash_token(successor, Purpose.REFRESH),
            session_id=presented.session_id,
            parent_hash=presented.hash,
            created_at=tx.now,
            expires_at=idle_expires_at,
        )
    )
    return successor


async def _move_place(
    tx: Tx, keyring: Keyring, key: DataKey, session_id: SessionId, place: str | None
) -> dict[str, object]:
    """The column to change, if the device is elsewhere than before."""
    table, column = PLACE_PLACE
    statement = select(SessionRow.place, revision_of(SessionRow, SessionRow.id).label("revision"))
    row = await tx.first(statement.where(SessionRow.id == session_id))
    if row is not None:
        known = key.find_text(
            row.place, table=table, column=column, row_id=session_id, revision=row.revision
        )
        if known == place:
            return {}
    revision = await raise_revision(tx, SessionRow, session_id)
    return {
        column: key.seal_text(
            place,
            table=table,
            column=column,
            row_id=session_id,
            revision=revision,
            encrypt=keyring.personal,
        )
    }


async def _open_successor(tx: Tx, keyring: Keyring, presented: _Presented) -> str:
    key = await keyring.require(tx, user_key(presented.user_id))
    successor = key.find_text(
        presented.successor,
        table="refresh_tokens",
        column="successor",
        row_id=_row_id(presented.hash),
    )
    if successor is None:
        raise RefreshTokenInvalid
    return successor


async def _end_replayed(
    tx: Tx, revocations: RevocationList, presented: _Presented
) -> RefreshTokenInvalid:
    log = await lock_scopes(tx, [user_scope(presented.user_id)])
    await end_sessions(
        tx,
        log,
        revocations=revocations,
        user_id=presented.user_id,
        session_ids=[presented.session_id],
    )
    record(tx, SecurityEvent("refresh_token_replayed", presented.user_id, presented.session_id))
    refusal = RefreshTokenInvalid()
    refusal.is_recorded = True
    return refusal


def _issue(
    tx: Tx, tokens: AccessTokens, presented: _Presented, refresh_token: str
) -> SessionTokens:
    access = tokens.issue(
        user_id=presented.user_id,
        session_id=presented.session_id,
        lifetime=presented.session_expires_at - tx.now,
    )
    return SessionTokens(presented.session_id, access.token, refresh_token, access.expires_in)


def _row_id(token_hash: bytes) -> int:
    """The row's place for the associated data, which takes numbers; 56 bits of the hash."""
    return int.from_bytes(token_hash[:7], "big")
