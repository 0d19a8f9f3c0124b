"""What messages add to the server."""

from app.features.chats.rules import ChatContents, ServiceMessages
from app.features.files.rules import FileAudience
from app.features.messages.append import NEW_MESSAGE
from app.features.messages.audience import MessageAudience
from app.features.messages.delete import MESSAGE_DELETED, MESSAGE_HIDDEN
from app.features.messages.edit import MESSAGE_EDITED
from app.features.messages.empty import JOBS
from app.features.messages.frames import handle_read, handle_send_message, handle_typing
from app.features.messages.personal_data import MessagesPersonalData
from app.features.messages.read import READ, READ_BY
from app.features.messages.routes import chats_router, router
from app.features.messages.schemas import ReadFrame, SendMessage, TypingFrame
from app.features.messages.service_messages import MessageEraser, ServiceMessageWriter
from app.features.messages.typing import TYPING
from app.features.messages.updates import fill_message, fill_read, fill_references
from app.kernel.scopes import ScopeKind
from app.transport.feature import Feature, FrameKind, Rule, UpdateKind
from app.transport.limits import LimitClass
from app.transport.personal_data import PersonalData

FEATURE = Feature(
    name="messages",
    routers=(router, chats_router),
    updates=(
        UpdateKind(NEW_MESSAGE, ScopeKind.CHAT, fill_message),
        UpdateKind(MESSAGE_EDITED, ScopeKind.CHAT, fill_message),
        UpdateKind(MESSAGE_DELETED, ScopeKind.CHAT, fill_message),
        UpdateKind(READ_BY, ScopeKind.CHAT, fill_references),
        UpdateKind(READ, ScopeKind.USER, fill_read),
        UpdateKind(MESSAGE_HIDDEN, ScopeKind.USER, fill_references),
    ),
    frames=(
        FrameKind("send_message", SendMessage, handle_send_message, LimitClass.SENDS),
        FrameKind("read", ReadFrame, handle_read, LimitClass.READS),
        FrameKind(TYPING, TypingFrame, handle_typing, LimitClass.TYPING),
    ),
    jobs=JOBS,
    rules=(
        Rule(PersonalData, MessagesPersonalData()),
        Rule(ServiceMessages, ServiceMessageWriter()),
        Rule(ChatContents, MessageEraser()),
        Rule(FileAudience, MessageAudience()),
    ),
)
