"""Changing a group or channel: its texts, its public username, what members may do, who sees the past."""

from typing import TypedDict

from app.features.chats.access import get_membership, require
from app.features.chats.changes import Change, Tools, lock_chat, write_service
from app.features.chats.create import check_history
from app.features.chats.errors import ChatInvalid
from app.features.chats.limits import MAX_DESCRIPTION_LENGTH, MAX_TITLE_LENGTH
from app.features.chats.models import ChatRow
from app.features.chats.policy import (
    ChatFacts,
    ChatType,
    Membership,
    may_change_info,
    may_make_public,
    may_set_history,
    may_set_permissions,
    permission_names,
    permissions_of,
)
from app.features.chats.queries import change_chat, free_username, take_username
from app.features.chats.render import ChatView, SealedColumn, load_chats, seal_fields
from app.features.users.errors import UsernameTaken
from app.infra.cipher.keyring import chat_key
from app.infra.cipher.revisions import raise_revision
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
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


async def update_chat(
    db: Database, tools: Tools, *, user_id: UserId, chat_id: ChatId, changes: ChatChanges
) -> None:
    """Without a difference nobody is told anything.

    Raises:
        chat_not_found, not_allowed, name_invalid, text_invalid, username_invalid, username_taken, chat_invalid
    """
    _check_texts(changes)

    async def work(tx: Tx) -> None:
        log = await lock_chat(tx, chat_id)
        membership = await get_membership(tx, user_id, chat_id)
        _authorise(membership, changes)
        view = (await load_chats(tx, tools.keyring, [chat_id]))[chat_id]
        changed = _find_differences(view, changes)
        if not changed:
            return
        change = Change(tx=tx, log=log, tools=tools, actor_id=user_id)
        await _store(change, membership.chat, view, changed)
        log.append(chat_scope(chat_id), "chat_updated", subject_id=chat_id)
        if "title" in changed and membership.chat.type is ChatType.GROUP:
            await write_service(change, membership.chat, "title_changed")

    await db.write(work)


def _check_texts(changes: ChatChanges) -> None:
    if "title" in changes:
        clean_name(changes["title"], field="title", max_length=MAX_TITLE_LENGTH)
    if description := changes.get("description"):
        clean_about(description, field="description", max_length=MAX_DESCRIPTION_LENGTH)
    if (username := changes.get("username")) is not None:
        check_username(username)


def _authorise(membership: Membership, changes: ChatChanges) -> None:
    chat = membership.chat
    require(chat.type is not ChatType.PRIVATE)
    if chat.type is ChatType.CHANNEL and "permissions" in changes:
        message = "Members of a channel only read"
        raise ChatInvalid(errors=[FieldError("permissions", message)])
    rules = {
        "title": may_change_info,
        "description": may_change_info,
        "username": may_make_public,
        "permissions": may_set_permissions,
        "history_visible": may_set_history,
    }
    for field, may in rules.items():
        require(field not in changes or may(membership))
    # What all members may do, the admin who gives it may do too: nobody grants what they lack.
    given = permissions_of(changes.get("permissions", ())) & ~chat.permissions
    require(given in membership.rights)


def _find_differences(view: ChatView, changes: ChatChanges) -> ChatChanges:
    """Only what is not so already; an empty description is none."""
    asked: dict[str, object] = dict(changes)
    if "description" in asked:
        asked["description"] = asked["description"] or None
    if "permissions" in changes:
        asked["permissions"] = permission_names(permissions_of(changes["permissions"]))
    now: dict[str, object] = dict(view)
    changed = {name: value for name, value in asked.items() if value != now[name]}
    if "permissions" in changed:
        changed["permissions"] = changes.get("permissions")
    return ChatChanges(**changed)  # pyright: ignore[reportArgumentType] - a part of `changes`


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
    await change_chat(tx, chat.id, values)


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
