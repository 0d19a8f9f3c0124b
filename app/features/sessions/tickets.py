"""Tickets: single-use keys to a socket, so that no access token need stand in a URL."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select

from app.features.sessions.errors import TokenRefused, TooManyTickets
from app.features.sessions.models import SessionRow, TicketRow
from app.features.sessions.rules import ChatDoor
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.tokens.opaque import Purpose, hash_token, new_token
from app.kernel.ids import ChatId, SessionId, UserId

TICKET_LIFETIME = timedelta(seconds=30)
MAX_UNUSED_TICKETS = 20


@dataclass(frozen=True, slots=True)
class UsedTicket:
    """What a ticket stood for. `session_expires_at` ends the session unless it is refreshed."""

    user_id: UserId
    session_id: SessionId
    chat_id: ChatId | None
    session_expires_at: datetime


async def create_ticket(
    db: Database,
    doors: Sequence[ChatDoor],
    *,
    session_id: SessionId,
    chat_id: ChatId | None,
) -> str:
    """A ticket for `/ws/`, or for the socket of one chat; membership counts again at its use.

    Raises:
        TokenRefused: the session has just ended.
        NotFound: the chat is none of the user's.
        TooManyTickets: too many of this session's are unused.
    """
    ticket = new_token(Purpose.TICKET)

    async def work(tx: Tx) -> None:
        await tx.lock_names([f"session:{session_id}"])
        session = await find_live_user(tx, session_id)
        if session is None:
            raise TokenRefused
        if chat_id is not None:
            for door in doors:
                await door.require_entry(tx, user_id=session[0], chat_id=chat_id)
        await tx.execute(
            delete(TicketRow).where(
                TicketRow.session_id == session_id, TicketRow.expires_at <= tx.now
            )
        )
        await _require_room(tx, session_id)
        await tx.execute(
            insert(TicketRow).values(
                hash=hash_token(ticket, Purpose.TICKET),
                session_id=session_id,
                chat_id=chat_id,
                created_at=tx.now,
                expires_at=tx.now + TICKET_LIFETIME,
            )
        )

    await db.write(work)
    return ticket


async def use_ticket(db: Database, ticket: str) -> UsedTicket | None:
    """What the ticket stands for, once; None if it is unknown, used, expired or its session
    over.
    """
    ticket_hash = hash_token(ticket, Purpose.TICKET)
    if ticket_hash is None:
        return None
    known = select(TicketRow.expires_at).where(TicketRow.hash == ticket_hash)
    # Guesses are refused without a write.
    if await db.read(lambda tx: tx.scalar(known)) is None:
        return None

    async def work(tx: Tx) -> UsedTicket | None:
        row = await tx.first(
            delete(TicketRow)
            .where(TicketRow.hash == ticket_hash)
            .returning(TicketRow.session_id, TicketRow.chat_id, TicketRow.expires_at)
        )
        if row is None or row.expires_at <= tx.now:
            return None
        session = await find_live_user(tx, row.session_id)
        if session is None:
            return None
        user_id, session_expires_at = session
        return UsedTicket(user_id, row.session_id, row.chat_id, session_expires_at)

    return await db.write(work)


async def find_live_user(tx: Tx, session_id: SessionId) -> tuple[UserId, datetime] | None:
    """Whose session it is and when it ends for lack of use; None if it is over."""
    row = await tx.first(
        select(SessionRow.user_id, SessionRow.idle_expires_at).where(
            SessionRow.id == session_id,
            SessionRow.revoked_at.is_(None),
            SessionRow.idle_expires_at > tx.now,
        )
    )
    return None if row is None else (row.user_id, row.idle_expires_at)


async def _require_room(tx: Tx, session_id: SessionId) -> None:
    row = await tx.first(
        select(func.count(), func.min(TicketRow.expires_at)).where(
            TicketRow.session_id == session_id
        )
    )
    count, soonest = (0, None) if row is None else (int(row[0]), row[1])
    if count >= MAX_UNUSED_TICKETS and soonest is not None:
        raise TooManyTickets(retry_after=int((soonest - tx.now).total_seconds()) + 1)
