"""Changing a group or channel: its texts, its photo, its public username, what members may do, who sees the past."""

from typing import TypedDict

from app.features.chats.access import get_membership, require
from app.features.chats.changes import Change, Tools, lock_chat, show_photo, write_service
from app.features.chats.create import check_history
from app.features.chats.errors import ChatInvalid
from app.features.chats.limits import MAX_DESCRIPTION_LENGTH, MAX_TITLE_LENGTH
from app.features.chats.models import ChatRow
from app.features.chats.policy import (
    ChatFacts,
    ChatType,
    Membership,
    may_update,
    permission_names,
    permissions_of,
)
from app.features.chats.queries import (
    change_chat,
    find_photo_id,
    free_username,
    take_username,
)
from app.features.chats.render import ChatView, SealedColumn, load_chats, seal_fields
from app.features.chats.rules import ServiceAction
from app.features.users.errors import UsernameTaken
from app.infra.cipher.keyring import chat_key
from app.infra.cipher.revisions import raise_revision
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, FileId, UserId
from app.kernel.problems import FieldError
from app.kernel.scopes import chat_scope
from app.kernel.text import check_username, clean_about, clean_name


class ChatChanges(TypedDict, total=False):
    """What is absent stays as it is; None empties."""

    title: str
    description: str | None
    username: str | None
    permissions: list[str]
    history_visible: bool
    photo: FileId | None


async def update_chat(
    db: Database, tools: Tools, *, user_id: UserId, chat_id: ChatId, changes: ChatChanges
) -> None:
    """Without a difference nobody is told anything.

    Raises:
        chat_not_found, not_allowed, name_invalid, text_invalid, username_invalid, username_taken, chat_invalid,
        file_not_found, photo_invalid
    """
    _check_texts(changes)

    async def work(tx: Tx) -> None:
        log = await lock_chat(tx, chat_id)
        membership = await get_membership(tx, user_id, chat_id)
        _authorise(membership, changes)
        view = (await load_chats(tx, tools.keyring, [chat_id]))[chat_id]
        photo_id = await find_photo_id(tx, chat_id) if "photo" in changes else None
        changed = _find_differences(view, photo_id, changes)
        if not changed:
            return
        change = Change(tx=tx, log=log, tools=tools, actor_id=user_id)
        await _store(change, membership.chat, view, changed)
        log.append(chat_scope(chat_id), "chat_updated", subject_id=chat_id)
        if membership.chat.type is ChatType.GROUP:
            for action in _list_actions(changed):
                await write_service(change, membership.chat, action)

    await db.write(work)


def _check_texts(changes: ChatChanges) -> None:
    if "title" in changes:
        clean_name(changes["title"], field="title", max_length=MAX_TITLE_LENGTH)
    if description := changes.get("description"):
        clean_about(description, field="description", max_length=MAX_DESCRIPTION_LENGTH)
    if (username := changes.get("username")) is not None:
        check_username(username)


def _authorise(membership: Membership, changes: ChatChanges) -> None:
    require(membership.chat.type is not ChatType.PRIVATE)
    permissions = changes.get("permissions")
    if permissions is not None and membership.chat.type is ChatType.CHANNEL:
        message = "Members of a channel only read"
        raise ChatInvalid(errors=[FieldError("permissions", message)])
    given = None if permissions is None else permissions_of(permissions)
    require(may_update(membership, changes, permissions=given))


def _find_differences(view: ChatView, photo_id: FileId | None, changes: ChatChanges) -> ChatChanges:
    """Only what is not so already; an empty description is none."""
    asked: dict[str, object] = dict(changes)
    if "description" in asked:
        asked["description"] = asked["description"] or None
    if "permissions" in changes:
        asked["permissions"] = permission_names(permissions_of(changes["permissions"]))
    now: dict[str, object] = {**view, "photo": photo_id}
    changed = {name: value for name, value in asked.items() if value != now[name]}
    if "permissions" in changed:
        changed["permissions"] = changes.get("permissions")
    return ChatChanges(**changed)  # pyright: ignore[reportArgumentType] - a part of `changes`


def _list_actions(changed: ChatChanges) -> list[ServiceAction]:
    """Of what the members are told in the chat itself."""
    actions: list[ServiceAction] = []
    if "title" in changed:
        actions.append("title_changed")
    if "photo" in changed:
        actions.append("photo_removed" if changed["photo"] is None else "photo_changed")
    return actions


async def _store(change: Change, chat: ChatFacts, view: ChatView, changed: ChatChanges) -> None:
    tx = change.tx
    values: dict[str, object] = {}
    if "title" in changed or "description" in changed:
        values |= await _seal_texts(change, chat.id, view, changed)
    if "permissions" in changed:
        values["permissions"] = int(permissions_of(changed["permissions"]))
    if "username" in changed:
        values["username"] = changed["username"]
        await _move_username(tx, chat.id, changed["username"])
    is_public = changed["username"] is not None if "username" in changed else chat.is_public
    wanted = changed.get("history_visible")
    if wanted is not None:
        values["history_visible"] = check_history(chat.type, is_public=is_public, wanted=wanted)
    elif is_public:
        values["history_visible"] = True
    if values:
        await change_chat(tx, chat.id, values)
    if "photo" in changed:
        await show_photo(change, chat.id, changed["photo"])


async def _seal_texts(
    change: Change, chat_id: ChatId, view: ChatView, changed: ChatChanges
) -> dict[str, bytes | None]:
    """Both under the row's next revision; one that did not open before is left as it is."""
    keyring = change.tools.keyring
    texts: dict[SealedColumn, str | None] = {}
    for column in ("title", "description"):
        text = changed.get(column) if column in changed else view[column]
        if text is not None or column in changed:
            texts[column] = text
    key = await keyring.require(change.tx, chat_key(chat_id))
    revision = await raise_revision(change.tx, ChatRow, chat_id)
    return seal_fields(keyring, key, chat_id, texts, revision=revision)


async def _move_username(tx: Tx, chat_id: ChatId, username: str | None) -> None:
    name_key = None if username is None else check_username(username)
    await free_username(tx, chat_id, keep=name_key)
    if name_key is not None and not await take_username(tx, name_key, chat_id):
        raise UsernameTaken
