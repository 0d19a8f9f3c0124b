"""Changing what somebody is in a group or channel: owner, admin, member, restricted, banned, or out."""

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from app.features.chats.access import get_membership, load_chat_memberships, require
from app.features.chats.add_members import choose_addable
from app.features.chats.changes import (
    Change,
    Tools,
    admit,
    dismiss,
    joining_row,
    lock_chat,
    lock_people,
    tell_rights,
    write_service,
)
from app.features.chats.errors import (
    ChatForbidden,
    ChatFull,
    ChatInvalid,
    MemberNotFound,
    OwnerMustTransfer,
    TooManyAdmins,
)
from app.features.chats.limits import MAX_ADMINS
from app.features.chats.policy import (
    MEMBER_PERMISSIONS,
    NONE,
    ChatType,
    Membership,
    Permission,
    Role,
    all_rights,
    default_admin_rights,
    may_add_members,
    may_ban,
    may_ban_outsiders,
    may_demote,
    may_hand_over,
    may_list_members,
    may_promote,
    may_restrict,
)
from app.features.chats.queries import (
    change_chat,
    change_participant,
    list_admin_ids,
    write_participants,
)
from app.features.chats.render import MemberView, load_members
from app.features.users.access import require_user
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import ChatId, UserId
from app.kernel.problems import FieldError


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRole:
    """What somebody is to be. `permissions` None: what is usual. `until` None: for ever."""

    role: Role
    permissions: Permission | None = None
    until: datetime | None = None


async def change_member(
    db: Database,
    tools: Tools,
    *,
    actor_id: UserId,
    chat_id: ChatId,
    user_id: UserId,
    wanted: NewRole,
) -> MemberView:
    """The member as they are afterwards.

    `owner` hands the chat over; the former owner becomes an admin with all rights. `admin` promotes or
    changes an admin's rights. `member` demotes, lifts a restriction, or lets a banned person in again if
    they may be added. `restricted` leaves `permissions` (none unless given) of what members may do.
    `banned` puts out for good or `until`, also somebody who never was in. `left` puts out, or lifts a ban.

    Raises:
        chat_not_found, member_not_found, user_not_found, not_allowed, chat_invalid, chat_full,
        too_many_admins
        owner_must_transfer: the owner gives up the chat without naming another.
    """
    _check_shape(wanted)

    async def work(tx: Tx) -> MemberView:
        await lock_chat(tx, chat_id)
        actor = await get_membership(tx, actor_id, chat_id)
        require(actor.chat.type is not ChatType.PRIVATE and may_list_members(actor))
        if wanted.until is not None and wanted.until <= tx.now:
            raise ChatInvalid(errors=[FieldError("until", "Must be in the future")])
        found = await load_chat_memberships(tx, chat_id, [user_id])
        target = found.get(user_id)
        if target is None:
            target = await _make_outsider(tx, actor, user_id, wanted.role)
        if target.role is Role.OWNER:
            raise OwnerMustTransfer if user_id == actor_id else ChatForbidden
        log = await lock_people(tx, actor.chat, [user_id, actor_id])
        change = Change(tx=tx, log=log, tools=tools, actor_id=actor_id)
        await _apply(change, actor, target, wanted)
        views = await load_members(tx, tools.keyring, [(chat_id, user_id)], viewer=actor_id)
        return views[chat_id, user_id]

    return await db.write(work)


def _check_shape(wanted: NewRole) -> None:
    """Permissions belong to admins and restricted members, an end to restrictions and bans."""
    if wanted.permissions is not None and wanted.role not in {Role.ADMIN, Role.RESTRICTED}:
        message = "Belongs to admin and restricted"
        raise ChatInvalid(errors=[FieldError("permissions", message)])
    if wanted.until is not None and wanted.role not in {Role.RESTRICTED, Role.BANNED}:
        raise ChatInvalid(errors=[FieldError("until", "Belongs to restricted and banned")])


async def _make_outsider(tx: Tx, actor: Membership, user_id: UserId, role: Role) -> Membership:
    """Somebody who never was in the chat can only be banned from it: then they get a row."""
    await require_user(tx, user_id)
    if role is not Role.BANNED:
        raise MemberNotFound
    require(may_ban_outsiders(actor))
    row = joining_row(tx, actor.chat.id, user_id, seq=0, role=Role.LEFT)
    await write_participants(tx, [row])
    return (await load_chat_memberships(tx, actor.chat.id, [user_id]))[user_id]


async def _apply(change: Change, actor: Membership, target: Membership, wanted: NewRole) -> None:
    match wanted.role:
        case Role.OWNER:
            await _hand_over(change, actor, target)
        case Role.ADMIN:
            await _promote(change, actor, target, wanted.permissions)
        case Role.MEMBER:
            await _make_plain(change, actor, target)
        case Role.RESTRICTED:
            await _restrict(change, actor, target, wanted)
        case Role.BANNED:
            await _ban(change, actor, target, wanted.until)
        case Role.LEFT:
            await _put_out(change, actor, target)
        case _:
            assert_never(wanted.role)


async def _hand_over(change: Change, actor: Membership, target: Membership) -> None:
    _require_current(target)
    require(may_hand_over(actor, target))
    chat, tx = actor.chat, change.tx
    rights = int(all_rights(chat.type))
    await _set_role(change, actor, Role.ADMIN, permissions=rights)
    await _set_role(change, target, Role.OWNER)
    await change_chat(tx, chat.id, {"owner_id": target.user_id})
    await tell_rights(change, chat, [actor.user_id, target.user_id])
    if chat.type is ChatType.GROUP:
        await write_service(change, chat, "owner_changed", [target.user_id])


async def _promote(
    change: Change, actor: Membership, target: Membership, permissions: Permission | None
) -> None:
    _require_current(target)
    granted = default_admin_rights(actor) if permissions is None else permissions
    if granted not in all_rights(actor.chat.type):
        raise ChatInvalid(errors=[FieldError("permissions", "Do not all exist in this chat")])
    require(may_promote(actor, target, granted=granted))
    if target.role is not Role.ADMIN:
        admins = await list_admin_ids(change.tx, actor.chat.id)
        if len(admins) >= MAX_ADMINS:
            raise TooManyAdmins
    await _set_role(change, target, Role.ADMIN, permissions=int(granted))
    await tell_rights(change, actor.chat, [target.user_id])


async def _make_plain(change: Change, actor: Membership, target: Membership) -> None:
    match target.role:
        case Role.ADMIN:
            require(may_demote(actor, target))
        case Role.RESTRICTED:
            require(may_ban(actor, target))
        case Role.BANNED:
            require(may_ban(actor, target))
            await _let_in_again(change, actor, target)
            return
        case Role.MEMBER:
            require(may_ban(actor, target) or may_demote(actor, target))
            return
        case Role.OWNER | Role.LEFT:
            raise MemberNotFound
        case _:
            assert_never(target.role)
    await _set_role(change, target, Role.MEMBER)
    await tell_rights(change, actor.chat, [target.user_id])


async def _let_in_again(change: Change, actor: Membership, target: Membership) -> None:
    """Nobody is put into a chat against their will: a banned person is added like anybody else."""
    require(may_add_members(actor))
    await _set_role(change, target, Role.LEFT)
    if not await choose_addable(change.tx, actor.user_id, [target.user_id], known={}):
        raise ChatForbidden
    if actor.chat.members_count >= change.tools.max_members:
        raise ChatFull
    await admit(change, actor.chat, [target.user_id], action="members_added")


async def _restrict(change: Change, actor: Membership, target: Membership, wanted: NewRole) -> None:
    _require_current(target)
    if actor.chat.type is not ChatType.GROUP:
        raise ChatInvalid(errors=[FieldError("role", "Members of a channel only read")])
    granted = wanted.permissions or NONE
    if granted not in MEMBER_PERMISSIONS:
        raise ChatInvalid(errors=[FieldError("permissions", "Not all are for members")])
    require(may_restrict(actor, target, granted=granted))
    await _set_role(change, target, Role.RESTRICTED, permissions=int(granted), until=wanted.until)
    await tell_rights(change, actor.chat, [target.user_id])


async def _ban(
    change: Change, actor: Membership, target: Membership, until: datetime | None
) -> None:
    require(may_ban(actor, target))
    if target.is_current:
        await dismiss(change, target, reason="banned", role=Role.BANNED, until=until)
        return
    await _set_role(change, target, Role.BANNED, until=until)
    await tell_rights(change, actor.chat, [target.user_id])


async def _put_out(change: Change, actor: Membership, target: Membership) -> None:
    if target.role is Role.LEFT:
        raise MemberNotFound
    require(may_ban(actor, target))
    if target.is_current:
        await dismiss(change, target, reason="removed")
        return
    await _set_role(change, target, Role.LEFT)
    await tell_rights(change, actor.chat, [target.user_id])


def _require_current(target: Membership) -> None:
    if not target.is_current:
        raise MemberNotFound


async def _set_role(
    change: Change,
    target: Membership,
    role: Role,
    *,
    permissions: int | None = None,
    until: datetime | None = None,
) -> None:
    values = {"role": str(role), "permissions": permissions, "restricted_until": until}
    await change_participant(change.tx, target.chat.id, target.user_id, values)
