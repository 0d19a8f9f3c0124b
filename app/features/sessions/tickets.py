"""Tickets: single-use keys to a socket, so that no access token need stand in a URL."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select

from app.features.sessions.errors import TokenRefused, TooManyTickets
from app.features.sessions.models import SessionRow, TicketRow
from app.features.sessions.rules import ChatDoor
from app.infra.database.committer import BUSY, Busy
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.tokens.opaque import Purpose, hash_token, new_token
from app.kernel.ids import ChatId, SessionId, UserId
from app.kernel.problems import Problem

TICKET_LIFETIME = timedelta(seconds=30)
MAX_UNUSED_TICKETS = 20
# After an outage thousands come for one; a larger group makes their statements few, and its rows are small.
_MAX_GROUP = 256


@dataclass(frozen=True, slots=True)
class UsedTicket:
    """What a ticket stood for. `session_expires_at` ends the session unless it is refreshed."""

    user_id: UserId
    session_id: SessionId
    chat_id: ChatId | None
    session_expires_at: datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """One ticket that is asked for."""

    ticket: str = field(repr=False)
    session_id: SessionId
    chat_id: ChatId | None
    doors: Sequence[ChatDoor]


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
    wish = Wish(ticket, session_id, chat_id, doors)
    await db.write_grouped(create_tickets, wish, at_most=_MAX_GROUP)
    return ticket


async def create_tickets(
    tx: Tx, wishes: Sequence[Wish], *, may_wait: bool
) -> Sequence[Problem | Busy | None]:
    """All tickets of a group: after an outage everybody comes for one at the same moment."""
    locked = await _lock_sessions(tx, [wish.session_id for wish in wishes], may_wait=may_wait)
    await tx.execute(
        delete(TicketRow).where(TicketRow.session_id.in_(locked), TicketRow.expires_at <= tx.now)
    )
    users = await find_live_users(tx, locked)
    unused = await _count_unused(tx, locked)
    outcomes: list[Problem | Busy | None] = []
    granted: list[Wish] = []
    for wish in wishes:
        outcome = BUSY
        if wish.session_id in locked:
            outcome = await _judge(tx, wish, users, unused)
        if outcome is None:
            granted.append(wish)
            unused[wish.session_id] = _one_more(unused.get(wish.session_id), tx.now)
        outcomes.append(outcome)
    if granted:
        await tx.execute(
            insert(TicketRow),
            [
                {
                    "hash": hash_token(wish.ticket, Purpose.TICKET),
                    "session_id": wish.session_id,
                    "chat_id": wish.chat_id,
                    "created_at": tx.now,
                    "expires_at": tx.now + TICKET_LIFETIME,
                }
                for wish in granted
            ],
        )
    return outcomes


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
    return await db.write_grouped(use_tickets, ticket_hash, at_most=_MAX_GROUP)


async def use_tickets(
    tx: Tx, hashes: Sequence[bytes], *, may_wait: bool
) -> Sequence[UsedTicket | None]:
    """All of a group; of two uses of one ticket the first counts."""
    del may_wait  # nobody holds a ticket for longer than it takes to use it
    rows = await tx.all(
        delete(TicketRow)
        .where(TicketRow.hash.in_(hashes))
        .returning(TicketRow.hash, TicketRow.session_id, TicketRow.chat_id, TicketRow.expires_at)
    )
    tickets = {row.hash: row for row in rows if row.expires_at > tx.now}
    users = await find_live_users(tx, {row.session_id for row in tickets.values()})
    used: list[UsedTicket | None] = []
    for ticket_hash in hashes:
        row = tickets.pop(ticket_hash, None)
        session = None if row is None else users.get(row.session_id)
        if row is None or session is None:
            used.append(None)
        else:
            used.append(UsedTicket(session[0], row.session_id, row.chat_id, session[1]))
    return used


async def find_live_users(
    tx: Tx, session_ids: Collection[SessionId]
) -> dict[SessionId, tuple[UserId, datetime]]:
    """Of each session that is not over: whose it is, and when it ends for lack of use."""
    rows = await tx.all(
        select(SessionRow.id, SessionRow.user_id, SessionRow.idle_expires_at).where(
            SessionRow.id.in_(session_ids),
            SessionRow.revoked_at.is_(None),
            SessionRow.idle_expires_at > tx.now,
        )
    )
    return {row.id: (row.user_id, row.idle_expires_at) for row in rows}


async def _lock_sessions(
    tx: Tx, session_ids: Sequence[SessionId], *, may_wait: bool
) -> set[SessionId]:
    """So that nobody counts the tickets of a session while another adds one."""
    names = {f"session:{session_id}": session_id for session_id in session_ids}
    if may_wait:
        await tx.lock_names(names)
        return set(session_ids)
    return {names[name] for name in await tx.try_lock_names(names)}


Unused = tuple[int, datetime]
"""How many tickets of a session are unused, and when the first of them expires."""


async def _count_unused(tx: Tx, session_ids: Collection[SessionId]) -> dict[SessionId, Unused]:
    rows = await tx.all(
        select(TicketRow.session_id, func.count(), func.min(TicketRow.expires_at))
        .where(TicketRow.session_id.in_(session_ids))
        .group_by(TicketRow.session_id)
    )
    return {session_id: (count, soonest) for session_id, count, soonest in rows}


def _one_more(unused: Unused | None, now: datetime) -> Unused:
    return (1, now + TICKET_LIFETIME) if unused is None else (unused[0] + 1, unused[1])


async def _judge(
    tx: Tx,
    wish: Wish,
    users: Mapping[SessionId, tuple[UserId, datetime]],
    unused: Mapping[SessionId, Unused],
) -> Problem | None:
    """Why there is no ticket."""
    session = users.get(wish.session_id)
    if session is None:
        return TokenRefused()
    if wish.chat_id is not None:
        try:
            for door in wish.doors:
                await door.require_entry(tx, user_id=session[0], chat_id=wish.chat_id)
        except Problem as problem:
            return problem
    count, soonest = unused.get(wish.session_id, (0, tx.now))
    if count >= MAX_UNUSED_TICKETS:
        return TooManyTickets(retry_after=int((soonest - tx.now).total_seconds()) + 1)
    return None
