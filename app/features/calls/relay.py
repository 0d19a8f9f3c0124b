"""Relays calls between the two people of a private chat. Nothing is stored, and nobody else ever sees them."""

import orjson

from app.features.calls.errors import CallNotAllowed, CallTooLarge
from app.features.calls.schemas import MAX_BYTES, CallFrame
from app.features.chats.access import get_membership
from app.features.updates.signals import publish_signal
from app.features.users.access import may_call
from app.infra.bus.port import Bus
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import SessionId, UserId
from app.kernel.scopes import chat_scope

# These end the ringing of the sender's other devices too.
_SETTLING = frozenset({"answer", "reject", "hangup"})


async def relay_call(
    db: Database, bus: Bus, *, caller: UserId, session_id: SessionId, frame: CallFrame
) -> None:
    """Pass a step of a call on to all devices of the other person.

    Raises:
        chat_not_found: the caller is not in the chat.
        call_not_allowed: it is not a private chat of two, or a block or the other's privacy forbids.
        call_too_large: over 32 KiB.
    """
    data = frame.model_dump(exclude_none=True)
    if len(orjson.dumps(data)) > MAX_BYTES:
        raise CallTooLarge

    async def work(tx: Tx) -> UserId:
        return await require_callee(tx, caller, frame)

    callee = await db.read(work)
    data |= {"from_user_id": caller, "from_device": session_id}
    scope = chat_scope(frame.chat_id)
    publish_signal(bus, type="call", data=data, users=[callee], scope=scope)
    if frame.action in _SETTLING:
        publish_signal(
            bus, type="call", data=data, users=[caller], scope=scope, except_session=session_id
        )


async def require_callee(tx: Tx, caller: UserId, frame: CallFrame) -> UserId:
    """The other person of the chat, whom the caller may reach.

    Privacy decides who may ring; whoever may be rung by the other may answer them.

    Raises:
        chat_not_found
        call_not_allowed
    """
    membership = await get_membership(tx, caller, frame.chat_id)
    others = [user_id for user_id in membership.chat.pair or () if user_id != caller]
    if not others:
        raise CallNotAllowed
    callee = others[0]
    allowed = await may_call(tx, caller, callee)
    if not allowed and frame.action != "offer":
        allowed = await may_call(tx, callee, caller)
    if not allowed:
        raise CallNotAllowed
    return callee
