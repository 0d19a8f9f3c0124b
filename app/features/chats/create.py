"""Opening chats: the one private chat of a pair, groups and channels."""

from dataclasses import dataclass
from typing import Literal

from app.features.chats.access import find_membership, make_pair_key, require
from app.features.chats.changes import (
    Change,
    Tools,
    check_room,
    joining_row,
    show_photo,
    write_service,
)
from app.features.chats.errors import ChatFull, ChatInvalid, ChatNotFound, TooManyChats
from app.features.chats.limits import MAX_DESCRIPTION_LENGTH, MAX_TITLE_LENGTH
from app.features.chats.models import ChatRow
from app.features.chats.policy import (
    DEFAULT_GROUP_PERMISSIONS,
    NONE,
    PRIVATE_RIGHTS,
    ChatFacts,
    ChatType,
    Role,
    always_shows_history,
)
from app.features.chats.queries import (
    change_chat,
    find_full,
    find_private_chat,
    insert_chat,
    insert_private_chat,
    open_private_chat,
    take_username,
    write_participants,
)
from app.features.chats.render import seal_fields
from app.features.updates.log import ScopeLog, create_scopes, lock_scopes
from app.features.users.access import find_existing, is_blocked, may_add_to_groups
from app.features.users.errors import UsernameTaken, UserNotFound
from app.infra.cipher.keyring import chat_key
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, FileId, MessageId, UserId
from app.kernel.problems import FieldError
from app.kernel.scopes import chat_scope, user_scope
from app.kernel.text import check_username, clean_about, clean_name


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChat:
    """A group or channel to be. `history_visible` None: what is usual for its type."""

    type: Literal[ChatType.GROUP, ChatType.CHANNEL]
    title: str
    description: str | None = None
    username: str | None = None
    member_ids: tuple[UserId, ...] = ()
    history_visible: bool | None = None
    photo_id: FileId | None = None


async def create_private_chat(
    db: Database, tools: Tools, *, user_id: UserId, peer_id: UserId
) -> tuple[ChatId, bool]:
    """The chat of this pair, and whether it is new. With oneself: "Saved messages".

    One that the user had deleted comes back to their list, empty.

    Raises:
        user_not_found, too_many_chats
        not_allowed: it would be new, and the other has blocked the user.
    """
    pair_key = make_pair_key(user_id, peer_id)

    async def work(tx: Tx) -> tuple[ChatId, bool]:
        chat_id = await find_private_chat(tx, pair_key)
        if chat_id is None:
            chat_id = await _make_private_chat(tx, tools, user_id=user_id, peer_id=peer_id)
            if chat_id is not None:
                return chat_id, True
            chat_id = await find_private_chat(tx, pair_key)
        if chat_id is None:
            raise ChatNotFound
        await _reopen(tx, chat_id, user_id)
        return chat_id, False

    return await db.write(work)


async def create_chat(db: Database, tools: Tools, *, owner_id: UserId, new: NewChat) -> ChatId:
    """A group or channel with its first members.

    As in Telegram, people who have blocked the owner, do not let themselves be added or are in too many
    chats are left out, all alike; the member list tells who is in.

    Raises:
        user_not_found: one of the members does not exist.
        name_invalid, text_invalid, username_invalid, username_taken, chat_invalid, chat_full, too_many_chats,
        file_not_found, photo_invalid
    """
    clean_name(new.title, field="title", max_length=MAX_TITLE_LENGTH)
    if new.description is not None:
        clean_about(new.description, field="description", max_length=MAX_DESCRIPTION_LENGTH)
    name_key = None if new.username is None else check_username(new.username)
    history_visible = check_history(
        new.type, is_public=name_key is not None, wanted=new.history_visible
    )

    async def work(tx: Tx) -> ChatId:
        asked = {user_id for user_id in new.member_ids if user_id != owner_id}
        if len(await find_existing(tx, asked)) < len(asked):
            raise UserNotFound
        chat = ChatFacts(
            id=await _reserve_id(tx),
            type=new.type,
            permissions=DEFAULT_GROUP_PERMISSIONS if new.type is ChatType.GROUP else NONE,
            history_visible=history_visible,
            is_public=name_key is not None,
            owner_id=owner_id,
            pair=None,
            members_count=0,
            last_message_id=MessageId(0),
            created_at=tx.now,
        )
        await _insert(tx, tools, chat, new)
        await create_scopes(tx, [chat_scope(chat.id)])
        people = [owner_id, *asked]
        log = await lock_scopes(tx, [chat_scope(chat.id), *map(user_scope, people)])
        # Behind the locks, as wherever a username is taken: the other order deadlocks with it.
        if name_key is not None and not await take_username(tx, name_key, chat.id):
            raise UsernameTaken
        change = Change(tx=tx, log=log, tools=tools, actor_id=owner_id)
        await check_room(change, chat, owner_id)
        allowed = await may_add_to_groups(tx, owner_id, asked)
        members = sorted(allowed - await find_full(tx, sorted(allowed)))
        if len(members) + 1 > tools.max_members:
            raise ChatFull
        if new.photo_id is not None:
            await show_photo(change, chat.id, new.photo_id)
        await _bring_in(change, chat, owner_id, members)
        return chat.id

    return await db.write(work)


def check_history(chat_type: ChatType, *, is_public: bool, wanted: bool | None) -> bool:
    """Whether newcomers see what was before them; a private group hides it unless it is `wanted`.

    Raises:
        chat_invalid: it is to be hidden where it never is.
    """
    if not always_shows_history(chat_type, is_public=is_public):
        return wanted is True
    if wanted is False:
        message = "Channels and public groups always show their history"
        raise ChatInvalid(errors=[FieldError("history_visible", message)])
    return True


async def _make_private_chat(
    tx: Tx, tools: Tools, *, user_id: UserId, peer_id: UserId
) -> ChatId | None:
    """None if somebody else has just made it."""
    if peer_id not in await find_existing(tx, [peer_id]):
        raise UserNotFound
    chat_id = await _reserve_id(tx)
    people = sorted({user_id, peer_id})
    row: dict[str, object] = {
        "id": chat_id,
        "type": str(ChatType.PRIVATE),
        "permissions": int(PRIVATE_RIGHTS),
        "history_visible": True,
        "pair_key": make_pair_key(user_id, peer_id),
        "members_count": len(people),
        "created_at": tx.now,
    }
    if not await insert_private_chat(tx, row):
        return None
    await tools.keyring.create(tx, chat_key(chat_id))
    await create_scopes(tx, [chat_scope(chat_id)])
    log = await lock_scopes(tx, [chat_scope(chat_id), *map(user_scope, people)])
    require(not await is_blocked(tx, peer_id, user_id))
    if await find_full(tx, [user_id]):
        raise TooManyChats
    members = [joining_row(tx, chat_id, member, seq=0) for member in people]
    await write_participants(tx, members)
    _tell_created(log, chat_id, people)
    return chat_id


async def _reopen(tx: Tx, chat_id: ChatId, user_id: UserId) -> None:
    """Nothing, unless the user had deleted the chat and nothing was written since."""
    membership = await find_membership(tx, user_id, chat_id)
    if membership is None or not membership.is_closed:
        return
    log = await lock_scopes(tx, [chat_scope(chat_id), user_scope(user_id)])
    # Again, behind the locks: another device or a message may have been faster.
    membership = await find_membership(tx, user_id, chat_id)
    if membership is None or not membership.is_closed:
        return
    await open_private_chat(tx, chat_id, user_id)
    _tell_created(log, chat_id, [user_id])


async def _insert(tx: Tx, tools: Tools, chat: ChatFacts, new: NewChat) -> None:
    key = await tools.keyring.create(tx, chat_key(chat.id))
    sealed = seal_fields(
        tools.keyring, key, chat.id, {"title": new.title, "description": new.description}
    )
    row: dict[str, object] = {
        "id": chat.id,
        "type": str(chat.type),
        **sealed,
        "username": new.username,
        "permissions": int(chat.permissions),
        "history_visible": chat.history_visible,
        "owner_id": chat.owner_id,
        "members_count": 0,
        "created_at": tx.now,
    }
    await insert_chat(tx, row)


async def _bring_in(
    change: Change, chat: ChatFacts, owner_id: UserId, members: list[UserId]
) -> None:
    """The owner and the first members of a new group or channel, before its first update."""
    tx = change.tx
    rows = [joining_row(tx, chat.id, owner_id, seq=0, role=Role.OWNER)]
    rows += [joining_row(tx, chat.id, member, seq=0) for member in members]
    await write_participants(tx, rows)
    await change_chat(tx, chat.id, {"members_count": len(rows)})
    _tell_created(change.log, chat.id, [owner_id, *members])
    if chat.type is ChatType.GROUP:
        await write_service(change, chat, "group_created", members)


def _tell_created(log: ScopeLog, chat_id: ChatId, user_ids: list[UserId]) -> None:
    for user_id in user_ids:
        data = {"chat_id": chat_id, "seq": log.seq(chat_scope(chat_id))}
        log.append(user_scope(user_id), "chat_created", subject_id=chat_id, data=data)


async def _reserve_id(tx: Tx) -> ChatId:
    return ChatId((await tx.reserve_ids(ChatRow, 1))[0])
