"""Who may open a socket."""

from dataclasses import dataclass

from app.features.chats.access import find_membership
from app.features.sessions.authenticate import CurrentSession, authenticate_socket
from app.features.sessions.errors import TokenRefused
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.events import SecurityEvent
from app.kernel.ids import MAX_ID, ChatId, UserId
from app.kernel.problems import Kind, Problem, RateLimited
from app.transport.limits import LimitClass, take
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.hub import Hub


@dataclass(frozen=True, slots=True)
class Admission:
    """`chat_id`: the one chat of the socket."""

    session: CurrentSession
    chat_id: ChatId | None


async def admit(
    services: Services, hub: Hub, *, token: str, chat_text: str | None
) -> Admission | CloseCode | TokenRefused:
    """Decide on a socket before it costs anything; a code, or that nobody is signed in, refuses it.

    Every attempt of a known session counts.
    """
    chat_id = None if chat_text is None else _parse_chat_id(chat_text)
    try:
        # A ticket of the chat's must not be used up where the path names none.
        session = await authenticate_socket(services, token, chat_id=chat_id)
        # Who opens without a pause costs more than who stays; and whoever walks along the ids of chats opens none.
        await take(services, LimitClass.SOCKETS, user_id=session.user_id)
        if chat_text is not None and (
            chat_id is None or not await _is_member(services, session.user_id, chat_id)
        ):
            return CloseCode.NOT_ALLOWED
    except RateLimited:
        return CloseCode.TOO_MANY
    except Problem as problem:
        if problem.kind is Kind.UNAVAILABLE:
            return CloseCode.SERVICE_RESTART
        return problem if isinstance(problem, TokenRefused) else TokenRefused()
    if len(hub.of_user(session.user_id)) >= services.settings.websocket.max_sockets:
        details = {"limit": "open_sockets"}
        services.events.record(SecurityEvent("rate_limited", details=details))
        return CloseCode.TOO_MANY
    return Admission(session, chat_id)


async def _is_member(services: Services, user_id: UserId, chat_id: ChatId) -> bool:
    async def work(tx: Tx) -> bool:
        return await find_membership(tx, user_id, chat_id) is not None

    return await services.db.read(work)


def _parse_chat_id(text: str) -> ChatId | None:
    if not (text.isascii() and text.isdigit()) or text.startswith("0"):
        return None
    if len(text) > len(str(MAX_ID)) or int(text) > MAX_ID:
        return None
    return ChatId(int(text))
