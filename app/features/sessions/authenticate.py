"""Who is calling: the one place where an access token or a ticket becomes a session, for HTTP
and sockets.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from app.features.sessions.activity import Activity
from app.features.sessions.errors import TokenRefused
from app.features.sessions.revocations import RevocationList
from app.features.sessions.tickets import use_ticket
from app.infra.logging.context import bind_user
from app.infra.services import Services
from app.infra.tokens.access import TokenExpired, TokenInvalid
from app.infra.tokens.opaque import Purpose, is_token
from app.kernel.ids import ChatId, SessionId, UserId


@dataclass(frozen=True, slots=True)
class CurrentSession:
    """The signed-in device behind a request or a socket. A socket needs new proof at
    `expires_at`.
    """

    user_id: UserId
    session_id: SessionId
    expires_at: datetime


async def authenticate(services: Services, access_token: str) -> CurrentSession:
    """The session of an access token; touches the database only when revocations are not up to
    date.

    Raises:
        TokenRefused: wrong, expired, or its session is over.
    """
    try:
        claims = services.tokens.verify(access_token)
    except TokenInvalid as fault:
        refusal = TokenRefused(headers=_CHALLENGE)
        # Every device meets this a few times an hour: it learns so that it must refresh.
        refusal.event = "token_expired" if isinstance(fault, TokenExpired) else None
        raise refusal from None
    if await services.rules.one(RevocationList).is_revoked(services.db, claims.session_id):
        raise TokenRefused(headers=_CHALLENGE)
    services.rules.one(Activity).touch(claims.session_id, services.clock.now())
    bind_user(claims.user_id, session_id=claims.session_id)
    expires_at = datetime.fromtimestamp(claims.expires_at, tz=UTC)
    return CurrentSession(claims.user_id, claims.session_id, expires_at)


async def authenticate_socket(
    services: Services, token: str, *, chat_id: ChatId | None
) -> CurrentSession:
    """The session of a ticket, which it uses up, or of an access token.

    A ticket opens only what it was made for: `/ws/`, or the socket of its chat. `chat_id` is the
    chat whose socket is asked for.

    Raises:
        TokenRefused: as above, or the ticket was used, is too old or was made for something else.
    """
    if not is_token(token, Purpose.TICKET):
        return await authenticate(services, token)
    used = await use_ticket(services.db, token)
    if used is None or used.chat_id != chat_id:
        raise TokenRefused
    now = services.clock.now()
    services.rules.one(Activity).touch(used.session_id, now)
    bind_user(used.user_id, session_id=used.session_id)
    expires_at = min(now + services.tokens.lifetime, used.session_expires_at)
    return CurrentSession(used.user_id, used.session_id, expires_at)


_CHALLENGE = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
