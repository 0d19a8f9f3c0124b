"""The content of the updates of chats, as it is true when they are read."""

from collections.abc import Sequence
from typing import cast

from app.features.chats.access import load_memberships
from app.features.chats.policy import may_list_members
from app.features.chats.render import MemberView, load_chats, load_members
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import ChatId, UserId
from app.transport.feature import Content, LoggedUpdate


async def fill_chat_updated(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """The Chat, the same for every member; of a chat that is gone its tombstone."""
    chats = await load_chats(tx, services.keyring, {ChatId(update.scope.id) for update in updates})
    contents: list[Content] = []
    for update in updates:
        chat = chats.get(ChatId(update.scope.id))
        contents.append(_tombstone(update) if chat is None else {**chat})
    return contents


async def fill_members_changed(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{chat_id, members_count, members}`: those who came, went or changed, as they are now."""
    pairs = {(chat_of(update), user_id) for update in updates for user_id in _users_of(update)}
    members = await load_members(tx, services.keyring, pairs, viewer=None)
    chats = await load_chats(tx, services.keyring, {chat_id for chat_id, _ in pairs})
    contents: list[Content] = []
    for update in updates:
        chat_id = chat_of(update)
        chat = chats.get(chat_id)
        shown = [members.get((chat_id, user_id)) for user_id in _users_of(update)]
        contents.append(
            {
                "chat_id": chat_id,
                "members_count": 0 if chat is None else chat["members_count"],
                "members": [member for member in shown if member is not None],
            }
        )
    return contents


async def fill_own_members_changed(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """As `fill_members_changed`, in the scopes of a channel's admins and of whom it concerns.

    Whoever is no admin any more reads of themselves alone.
    """
    viewers = {(UserId(update.scope.id), chat_of(update)) for update in updates}
    memberships = await load_memberships(tx, viewers)
    contents = await fill_members_changed(tx, services, updates)
    for update, content in zip(updates, contents, strict=True):
        viewer = UserId(update.scope.id)
        membership = memberships.get((viewer, chat_of(update)))
        if membership is None or not may_list_members(membership):
            members = cast("list[MemberView]", content["members"])
            content["members"] = [it for it in members if it["user"]["id"] == viewer]
    return contents


async def fill_chat_deleted(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{chat_id}`."""
    return [{"chat_id": update.scope.id} for update in updates]


async def fill_chat_removed(
    tx: Tx, services: Services, updates: Sequence[LoggedUpdate]
) -> list[Content]:
    """`{chat_id, seq, reason}`: the chat's updates up to `seq` are the last ones of this membership."""
    return [
        {"chat_id": chat_of(update), "seq": update.data["seq"], "reason": update.data["reason"]}
        for update in updates
    ]


def chat_of(update: LoggedUpdate) -> ChatId:
    """The chat that an update of any scope is about."""
    return ChatId(update.subject_id or update.scope.id)


def _users_of(update: LoggedUpdate) -> list[UserId]:
    return list(update.data["user_ids"])


def _tombstone(update: LoggedUpdate) -> Content:
    return {"id": update.scope.id, "is_deleted": True}
