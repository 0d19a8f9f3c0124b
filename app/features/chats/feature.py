"""What chats add to the server."""

from app.features.chats.acquaintances import ChatAcquaintances
from app.features.chats.door import MembersDoor
from app.features.chats.jobs import JOBS
from app.features.chats.personal_data import ChatsPersonalData
from app.features.chats.photos import ChatPhotos
from app.features.chats.routes import invites_router, router
from app.features.chats.updates import (
    fill_chat_deleted,
    fill_chat_removed,
    fill_chat_updated,
    fill_members_changed,
    fill_own_members_changed,
)
from app.features.files.rules import FileAudience
from app.features.sessions.rules import ChatDoor
from app.features.users.rules import AcquaintanceRule
from app.kernel.scopes import ScopeKind
from app.transport.feature import Feature, Rule, UpdateKind
from app.transport.personal_data import PersonalData

FEATURE = Feature(
    name="chats",
    routers=(router, invites_router),
    updates=(
        UpdateKind("chat_updated", ScopeKind.CHAT, fill_chat_updated),
        UpdateKind("members_changed", ScopeKind.CHAT, fill_members_changed),
        UpdateKind("chat_deleted", ScopeKind.CHAT, fill_chat_deleted),
        UpdateKind("members_changed", ScopeKind.USER, fill_own_members_changed),
        UpdateKind("chat_removed", ScopeKind.USER, fill_chat_removed),
    ),
    jobs=JOBS,
    rules=(
        Rule(PersonalData, ChatsPersonalData()),
        Rule(AcquaintanceRule, ChatAcquaintances()),
        Rule(ChatDoor, MembersDoor()),
        Rule(FileAudience, ChatPhotos()),
    ),
)
