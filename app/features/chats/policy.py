"""Who may do what in a chat: pure rules over roles, rights and the chat's type. Nobody grants what they lack."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag, StrEnum
from functools import cache
from typing import assert_never

from app.kernel.ids import ChatId, MessageId, UserId


class ChatType(StrEnum):
    PRIVATE = "private"
    GROUP = "group"
    CHANNEL = "channel"


class Role(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    RESTRICTED = "restricted"
    LEFT = "left"
    BANNED = "banned"


class Permission(IntFlag):
    """A set of permissions as it is stored; on the wire a list of the names in lower case, in this order."""

    SEND_MESSAGES = 1
    SEND_MEDIA = 2
    ADD_MEMBERS = 4
    PIN_MESSAGES = 8
    CHANGE_INFO = 16
    DELETE_MESSAGES = 32
    BAN_MEMBERS = 64
    INVITE_USERS = 128
    PROMOTE_MEMBERS = 256
    POST_MESSAGES = 512


NONE = Permission(0)
WRITING = Permission.SEND_MESSAGES | Permission.SEND_MEDIA
MEMBER_PERMISSIONS = (
    WRITING | Permission.ADD_MEMBERS | Permission.PIN_MESSAGES | Permission.CHANGE_INFO
)
_MANAGING = (
    Permission.ADD_MEMBERS
    | Permission.PIN_MESSAGES
    | Permission.CHANGE_INFO
    | Permission.DELETE_MESSAGES
    | Permission.BAN_MEMBERS
    | Permission.INVITE_USERS
    | Permission.PROMOTE_MEMBERS
)
GROUP_RIGHTS = WRITING | _MANAGING
CHANNEL_RIGHTS = Permission.POST_MESSAGES | _MANAGING
PRIVATE_RIGHTS = WRITING | Permission.PIN_MESSAGES
DEFAULT_GROUP_PERMISSIONS = WRITING | Permission.ADD_MEMBERS

CURRENT_ROLES = (Role.OWNER, Role.ADMIN, Role.MEMBER, Role.RESTRICTED)
"""Those who are in the chat. Stored roles: a restriction that has run out still reads `restricted`."""

# Signals go to everybody who looks at a chat: beyond this they would be noise.
MAX_TYPING_MEMBERS = 200
MAX_READ_MARK_MEMBERS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFacts:
    """What rules need to know of a chat. `permissions` are those of plain members."""

    id: ChatId
    type: ChatType
    permissions: Permission
    history_visible: bool
    is_public: bool
    owner_id: UserId | None
    pair: tuple[UserId, UserId] | None
    members_count: int
    last_message_id: MessageId
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A user in a chat, judged at one moment: `role` and `rights` are those in force.

    Messages are visible from `first_visible_id` on and above `cleared_id`; updates above `joined_seq`.
    `restricted_until` belongs to a restriction or ban in force. `closed_id`: see `ParticipantRow`.
    """

    chat: ChatFacts
    user_id: UserId
    role: Role
    rights: Permission
    restricted_until: datetime | None
    joined_at: datetime
    joined_seq: int
    first_visible_id: MessageId
    cleared_id: MessageId
    closed_id: MessageId | None
    last_read_message_id: MessageId

    @property
    def is_current(self) -> bool:
        return self.role in CURRENT_ROLES

    @property
    def is_closed(self) -> bool:
        """Deleted by this user, with nothing written since."""
        return self.closed_id is not None and self.chat.last_message_id <= self.closed_id

    @property
    def peer_id(self) -> UserId | None:
        """The other user of a private chat, oneself in "Saved messages"; None elsewhere."""
        if self.chat.pair is None:
            return None
        low, high = self.chat.pair
        return high if self.user_id == low else low


def judge_role(role: Role, until: datetime | None, *, now: datetime) -> Role:
    """The role in force: a restriction or ban ends by itself at `until`."""
    if until is None or now < until:
        return role
    if role is Role.RESTRICTED:
        return Role.MEMBER
    return Role.LEFT if role is Role.BANNED else role


def judge_rights(
    chat_type: ChatType, role: Role, *, chat: Permission, own: Permission | None
) -> Permission:
    """What `role` may do.

    Args:
        chat_type: decides which rights exist at all.
        role: the role in force.
        chat: what the chat lets plain members do.
        own: an admin's rights, or what a restricted member may still do; no other role has any.
    """
    existing = all_rights(chat_type)
    own = own or NONE
    match role:
        case Role.OWNER:
            return existing
        case Role.ADMIN:
            return (WRITING | member_rights(chat_type, chat) | own) & existing
        case Role.MEMBER:
            return member_rights(chat_type, chat)
        case Role.RESTRICTED:
            return member_rights(chat_type, chat) & own
        case Role.LEFT | Role.BANNED:
            return NONE
        case _:
            assert_never(role)


def all_rights(chat_type: ChatType) -> Permission:
    """Every right that exists in such a chat."""
    match chat_type:
        case ChatType.PRIVATE:
            return PRIVATE_RIGHTS
        case ChatType.GROUP:
            return GROUP_RIGHTS
        case ChatType.CHANNEL:
            return CHANNEL_RIGHTS
        case _:
            assert_never(chat_type)


def member_rights(chat_type: ChatType, chat: Permission) -> Permission:
    """What plain members may do: all in a private chat, what the group lets them, nothing in a channel."""
    match chat_type:
        case ChatType.PRIVATE:
            return PRIVATE_RIGHTS
        case ChatType.GROUP:
            return chat & MEMBER_PERMISSIONS
        case ChatType.CHANNEL:
            return NONE
        case _:
            assert_never(chat_type)


def always_shows_history(chat_type: ChatType, *, is_public: bool) -> bool:
    """Whoever may join at will, or only reads, may as well see what was before."""
    return is_public or chat_type is not ChatType.GROUP


def may_post(membership: Membership) -> bool:
    """Write a text message."""
    return bool(membership.rights & (Permission.SEND_MESSAGES | Permission.POST_MESSAGES))


def may_post_media(membership: Membership) -> bool:
    return bool(membership.rights & (Permission.SEND_MEDIA | Permission.POST_MESSAGES))


def may_edit_own(membership: Membership) -> bool:
    """Editing asks for today's right to write, not for the one at sending."""
    return may_post(membership)


def may_delete_others(membership: Membership) -> bool:
    """Delete others' messages for everyone."""
    return membership.is_current and (
        membership.chat.type is ChatType.PRIVATE or Permission.DELETE_MESSAGES in membership.rights
    )


def may_change_info(membership: Membership) -> bool:
    """Title, description and photo of a group or channel; a private chat has none."""
    return (
        membership.chat.type is not ChatType.PRIVATE and Permission.CHANGE_INFO in membership.rights
    )


def may_set_permissions(membership: Membership) -> bool:
    """What plain members may do is decided by those who may restrict them one by one."""
    return membership.chat.type is ChatType.GROUP and Permission.BAN_MEMBERS in membership.rights


def may_make_public(membership: Membership) -> bool:
    """Setting or taking away the public username, which also opens the history: the owner alone."""
    return membership.role is Role.OWNER


def may_set_history(membership: Membership) -> bool:
    """Whether newcomers see what was before them: an admin who may change the chat, never a plain member."""
    return membership.role in {Role.OWNER, Role.ADMIN} and may_change_info(membership)


def may_update(
    membership: Membership, fields: Iterable[str], *, permissions: Permission | None = None
) -> bool:
    """Change these fields of a group or channel, each by its own rule; a field without a rule is nobody's.

    `permissions`: what plain members are to have. Whoever gives one to them all must have it: nobody grants
    what they lack.
    """
    given = NONE if permissions is None else permissions & ~membership.chat.permissions
    return (
        membership.chat.type is not ChatType.PRIVATE
        and all(
            field in _RULES_OF_FIELDS and _RULES_OF_FIELDS[field](membership) for field in fields
        )
        and given in membership.rights
    )


_RULES_OF_FIELDS: Mapping[str, Callable[[Membership], bool]] = {
    "title": may_change_info,
    "description": may_change_info,
    "photo": may_change_info,
    "username": may_make_public,
    "permissions": may_set_permissions,
    "history_visible": may_set_history,
}


def may_delete_chat(membership: Membership) -> bool:
    return membership.role is Role.OWNER or (
        membership.chat.type is ChatType.PRIVATE and membership.is_current
    )


def may_come_in(past: Membership | None) -> bool:
    """Join a chat that is open to them, as someone who is not in it; `past`: None for who never was."""
    return past is None or past.role is not Role.BANNED


def may_list_members(membership: Membership) -> bool:
    """In a channel only the owner and admins."""
    if membership.chat.type is ChatType.CHANNEL:
        return membership.role in {Role.OWNER, Role.ADMIN}
    return membership.is_current


def may_list_banned(membership: Membership) -> bool:
    return Permission.BAN_MEMBERS in membership.rights


def may_add_members(membership: Membership) -> bool:
    return membership.chat.type is not ChatType.PRIVATE and bool(
        membership.rights & (Permission.ADD_MEMBERS | Permission.INVITE_USERS)
    )


def may_manage_invites(membership: Membership) -> bool:
    return (
        membership.chat.type is not ChatType.PRIVATE
        and Permission.INVITE_USERS in membership.rights
    )


def outranks(actor: Membership, target: Membership) -> bool:
    """Whether `actor` stands above `target`: the owner above all, an admin above an admin with fewer rights."""
    if actor.role is Role.OWNER:
        return target.role is not Role.OWNER
    if actor.role is not Role.ADMIN:
        return False
    match target.role:
        case Role.OWNER:
            return False
        case Role.ADMIN:
            return target.rights != actor.rights and target.rights in actor.rights
        case Role.MEMBER | Role.RESTRICTED | Role.LEFT | Role.BANNED:
            return True
        case _:
            assert_never(target.role)


def may_hand_over(actor: Membership, target: Membership) -> bool:
    """Make somebody else of the chat its owner."""
    return actor.role is Role.OWNER and target.is_current and actor.user_id != target.user_id


def may_promote(actor: Membership, target: Membership, *, granted: Permission) -> bool:
    """Make an admin or change an admin's rights; nobody grants what they lack, or promotes themselves."""
    return (
        Permission.PROMOTE_MEMBERS in actor.rights
        and target.is_current
        and actor.user_id != target.user_id
        and outranks(actor, target)
        and granted in actor.rights
    )


def may_demote(actor: Membership, target: Membership) -> bool:
    """Turn an admin into a plain member; an admin may also step down."""
    if actor.user_id == target.user_id:
        return actor.role is Role.ADMIN
    return Permission.PROMOTE_MEMBERS in actor.rights and outranks(actor, target)


def may_restrict(actor: Membership, target: Membership, *, granted: Permission) -> bool:
    """Take rights from a member of a group, or give back some of those that `actor` has."""
    return (
        actor.chat.type is ChatType.GROUP
        and target.is_current
        and may_ban(actor, target)
        and granted in actor.rights
    )


def may_ban_outsiders(actor: Membership) -> bool:
    """Ban somebody who never was in the chat."""
    return actor.chat.type is not ChatType.PRIVATE and Permission.BAN_MEMBERS in actor.rights


def may_ban(actor: Membership, target: Membership) -> bool:
    """Remove, ban, or lift a ban. An admin who is banned loses a right, so that takes the right to demote."""
    if actor.user_id == target.user_id or Permission.BAN_MEMBERS not in actor.rights:
        return False
    if target.role is Role.ADMIN and Permission.PROMOTE_MEMBERS not in actor.rights:
        return False
    return outranks(actor, target)


def default_admin_rights(actor: Membership) -> Permission:
    """What a new admin gets if nothing is said: all that the promoter has but the right to promote."""
    return actor.rights & all_rights(actor.chat.type) & ~Permission.PROMOTE_MEMBERS


def permissions_of(names: Iterable[str]) -> Permission:
    """The set that these names stand for."""
    result = NONE
    for name in names:
        result |= Permission[name.upper()]
    return result


@cache
def permission_names(permissions: Permission) -> tuple[str, ...]:
    """The set as it stands on the wire."""
    return tuple((p.name or "").lower() for p in Permission if p in permissions)
