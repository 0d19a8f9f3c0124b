"""How membership changes, whatever asked for it: rows, the count, and who is told in which scope.

In a group everybody is told by the chat's scope, which is where sockets begin and cease to follow it. In a
channel only its admins and the person are, by their own scopes; those updates carry the chat's `seq`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Self

from app.features.chats.access import load_chat_memberships
from app.features.chats.errors import ChatFull, ChatNotFound, TooManyChats
from app.features.chats.limits import COUNT_TOLD_EVERY_SECONDS, MAX_TOLD_JOINS
from app.features.chats.policy import ChatFacts, ChatType, Membership, Role
from app.features.chats.queries import (
    add_to_members_count,
    change_chat,
    change_participant,
    find_count_times,
    find_full,
    find_photo_id,
    find_restrictions,
    list_admin_ids,
    write_joined,
)
from app.features.chats.rules import ServiceAction, write_service_message
from app.features.files.photos import change_photo
from app.features.updates.log import ScopeLog, lock_scopes
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import ChatId, FileId, UserId
from app.kernel.rules import Rules
from app.kernel.scopes import chat_scope, user_scope

RemovalReason = Literal["left", "removed", "banned", "deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What use cases that change chats need beside the database."""

    keyring: Keyring
    rules: Rules
    max_members: int

    @classmethod
    def of(cls, services: Services) -> Self:
        return cls(
            keyring=services.keyring,
            rules=services.rules,
            max_members=services.settings.people.max_group_members,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change by `actor_id`, under the locks of the chat and of the people it touches."""

    tx: Tx
    log: ScopeLog
    tools: Tools
    actor_id: UserId


async def lock_chat(tx: Tx, chat_id: ChatId) -> ScopeLog:
    """Take the chat's lock; membership and rights are read after it.

    Raises:
        chat_not_found: there never was such a chat.
    """
    log = await lock_scopes(tx, [chat_scope(chat_id)])
    if not log.is_locked(chat_scope(chat_id)):
        raise ChatNotFound
    return log


async def lock_people(tx: Tx, chat: ChatFacts, user_ids: Iterable[UserId]) -> ScopeLog:
    """Further take the locks of the people, and of a channel's admins, who are told by their own scopes."""
    people = set(user_ids)
    if chat.type is ChatType.CHANNEL:
        people.update(await list_admin_ids(tx, chat.id))
    return await lock_scopes(tx, [chat_scope(chat.id), *map(user_scope, people)])


async def check_room(change: Change, chat: ChatFacts, user_id: UserId) -> None:
    """Refuse who cannot come in for want of room.

    Raises:
        chat_full: the chat has as many members as it may.
        too_many_chats: the person is in as many chats as one may be.
    """
    if chat.members_count >= change.tools.max_members:
        raise ChatFull
    if await find_full(change.tx, [user_id]):
        raise TooManyChats


async def admit(
    change: Change, chat: ChatFacts, user_ids: Sequence[UserId], *, action: ServiceAction
) -> None:
    """Make members of people who are not in the chat; all are locked, and may come in.

    Who was restricted when they went out is so again: else leaving and joining would lift it.
    """
    tx, log, scope = change.tx, change.log, chat_scope(chat.id)
    seq = log.seq(scope)
    restrictions = await find_restrictions(tx, chat.id, user_ids)
    rows = [
        joining_row(
            tx,
            chat.id,
            user_id,
            seq=seq,
            last_message_id=chat.last_message_id,
            history_visible=chat.history_visible,
        )
        | restrictions.get(user_id, {})
        for user_id in user_ids
    ]
    await write_joined(tx, rows)
    await add_to_members_count(tx, chat.id, len(user_ids))
    for user_id in user_ids:
        data = {"chat_id": chat.id, "seq": seq}
        log.append(user_scope(user_id), "chat_created", subject_id=chat.id, data=data)
    if chat.type is ChatType.CHANNEL:
        await tell_admins(change, chat, user_ids)
        await _tell_count(change, chat)
        return
    log.append(
        scope,
        "members_changed",
        subject_id=chat.id,
        data={"user_ids": list(user_ids)},
        joined=user_ids,
    )
    if chat.members_count + len(user_ids) <= MAX_TOLD_JOINS:
        others = [user_id for user_id in user_ids if user_id != change.actor_id]
        await write_service(change, chat, action, others)


def joining_row(
    tx: Tx,
    chat_id: ChatId,
    user_id: UserId,
    *,
    seq: int,
    role: Role = Role.MEMBER,
    last_message_id: int = 0,
    history_visible: bool = True,
) -> dict[str, object]:
    """The row of someone who comes in now, at the chat's `seq`.

    What was written before counts as read; it cannot be seen if the chat hides its history.
    """
    return {
        "chat_id": chat_id,
        "user_id": user_id,
        "role": str(role),
        "permissions": None,
        "restricted_until": None,
        "joined_at": tx.now,
        "joined_seq": seq,
        "first_visible_id": 0 if history_visible else last_message_id + 1,
        "closed_id": None,
        "last_read_message_id": last_message_id,
        "is_pinned": False,
        "is_archived": False,
        "muted_until": None,
    }


async def dismiss(
    change: Change,
    membership: Membership,
    *,
    reason: RemovalReason,
    role: Role = Role.LEFT,
    until: datetime | None = None,
) -> None:
    """Put a member out. Behind this they read nothing, until they come in again."""
    tx, log, chat, user_id = change.tx, change.log, membership.chat, membership.user_id
    scope = chat_scope(chat.id)
    values: dict[str, object] = {
        "role": str(role),
        "is_pinned": False,
        "is_archived": False,
        "muted_until": None,
    }
    if not (membership.role is Role.RESTRICTED and role is Role.LEFT):
        values |= {"permissions": None, "restricted_until": until}
    await change_participant(tx, chat.id, user_id, values)
    await add_to_members_count(tx, chat.id, -1)
    ended = None
    if chat.type is ChatType.CHANNEL:
        ended = (chat.id, log.count_removal(scope))
        await tell_admins(change, chat, [user_id])
        await _tell_count(change, chat)
    else:
        data = {"user_ids": [user_id]}
        log.append(scope, "members_changed", subject_id=chat.id, data=data, left=[user_id])
    data = {"chat_id": chat.id, "seq": log.seq(scope), "reason": reason}
    log.append(
        user_scope(user_id),
        "chat_removed",
        subject_id=chat.id,
        data=data,
        content=data,
        ended=ended,
    )
    if chat.type is ChatType.GROUP and chat.members_count <= MAX_TOLD_JOINS:
        if reason == "left":
            await write_service(change, chat, "member_left")
        else:
            await write_service(change, chat, "member_removed", [user_id])


async def tell_rights(change: Change, chat: ChatFacts, user_ids: Sequence[UserId]) -> None:
    """The role or rights of members have changed."""
    if chat.type is ChatType.CHANNEL:
        await tell_admins(change, chat, user_ids, also=user_ids)
        return
    data = {"user_ids": list(user_ids)}
    change.log.append(chat_scope(chat.id), "members_changed", subject_id=chat.id, data=data)


async def tell_admins(
    change: Change, chat: ChatFacts, user_ids: Sequence[UserId], *, also: Sequence[UserId] = ()
) -> None:
    """In a channel: who came, went or changed, to those who may list its members, and to `also`."""
    admins = await list_admin_ids(change.tx, chat.id)
    data = {"user_ids": list(user_ids)}
    for user_id in sorted({*admins, *also}):
        scope = user_scope(user_id)
        change.log.append(scope, "members_changed", subject_id=chat.id, data=data)


async def write_service(
    change: Change, chat: ChatFacts, action: ServiceAction, user_ids: Sequence[UserId] = ()
) -> None:
    """Only groups have service messages."""
    await write_service_message(
        change.tools.rules,
        change.tx,
        change.log,
        change.tools.keyring,
        chat_id=chat.id,
        actor_id=change.actor_id,
        action=action,
        user_ids=user_ids,
    )


async def show_photo(change: Change, chat_id: ChatId, file_id: FileId | None) -> None:
    """An upload of whoever acts; None: no photo any more.

    Raises:
        file_not_found, photo_invalid
    """
    shown = await find_photo_id(change.tx, chat_id)
    await change_photo(
        change.tx,
        change.tools.keyring,
        kind="chat",
        subject_id=chat_id,
        owner_id=change.actor_id,
        shown=shown,
        wanted=file_id,
    )
    await change_chat(change.tx, chat_id, {"photo_id": file_id})


async def reload(change: Change, chat_id: ChatId, user_id: UserId) -> Membership:
    """The membership as it stands after what this change did."""
    found = await load_chat_memberships(change.tx, chat_id, [user_id])
    return found[user_id]


async def _tell_count(change: Change, chat: ChatFacts) -> None:
    """A channel's new number of members, to all who follow it: at most once a minute, else at its end."""
    told_at, due_at = await find_count_times(change.tx, chat.id)
    every = timedelta(seconds=COUNT_TOLD_EVERY_SECONDS)
    # Either way round: another worker's clock may be a little ahead.
    if told_at is None or abs(change.tx.now - told_at) >= every:
        await tell_count(change.tx, change.log, chat.id)
    elif due_at is None:
        await change_chat(change.tx, chat.id, {"count_due_at": told_at + every})


async def tell_count(tx: Tx, log: ScopeLog, chat_id: ChatId) -> None:
    """Now, under the channel's lock."""
    await change_chat(tx, chat_id, {"count_told_at": tx.now, "count_due_at": None})
    log.append(chat_scope(chat_id), "chat_updated", subject_id=chat_id)
