"""WebSocket frames of messages: the same use cases as over HTTP."""

from app.features.chats.errors import ChatNotFound
from app.features.messages.limits import count_send
from app.features.messages.post import post_message
from app.features.messages.read import mark_read
from app.features.messages.schemas import ReadFrame, SendMessage, TypingFrame
from app.features.messages.typing import show_typing
from app.kernel.ids import ChatId
from app.transport.feature import Content
from app.transport.websocket.frames import FrameContext


async def handle_send_message(context: FrameContext, data: SendMessage) -> Content:
    """`{message, created}`; for a forward of several `{items, created}`."""
    _require_own_chat(context, data.chat_id)
    await count_send(context.services, context.user_id, data)
    posted = await post_message(
        context.services.db, context.services.keyring, sender_id=context.user_id, body=data
    )
    if posted.message is None:
        return {"items": posted.items, "created": posted.created}
    return {"message": posted.message, "created": posted.created}


async def handle_read(context: FrameContext, data: ReadFrame) -> Content:
    """Nothing to tell beside that it is done."""
    _require_own_chat(context, data.chat_id)
    await mark_read(
        context.services.db,
        user_id=context.user_id,
        chat_id=data.chat_id,
        message_id=data.message_id,
    )
    return {}


async def handle_typing(context: FrameContext, data: TypingFrame) -> Content:
    """Nothing to tell beside that it is done."""
    _require_own_chat(context, data.chat_id)
    await show_typing(
        context.services.db,
        context.services.bus,
        user_id=context.user_id,
        chat_id=data.chat_id,
        action=data.action,
    )
    return {}


def _require_own_chat(context: FrameContext, chat_id: ChatId) -> None:
    """The socket of one chat knows no other."""
    if context.chat_id is not None and context.chat_id != chat_id:
        raise ChatNotFound
