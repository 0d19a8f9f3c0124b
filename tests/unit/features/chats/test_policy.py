"""Roles, permissions and types of chats, as tables written by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from app.features.chats import policy
from app.features.chats.policy import (
    ChatFacts,
    ChatType,
    Membership,
    Permission,
    Role,
    permissions_of,
)
from app.kernel.ids import ChatId, MessageId, UserId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(milliseconds=1)
ALL_OF_A_GROUP = (
    "send_messages send_media add_members pin_messages change_info delete_messages ban_members "
    "invite_users promote_members"
)
ALL_OF_A_CHANNEL = (
    "add_members pin_messages change_info delete_messages ban_members invite_users "
    "promote_members post_messages"
)
PRIVATE = "send_messages send_media pin_messages"


def rights(words: str) -> Permission:
    return permissions_of(words.split())


def member(
    role: Role,
    words: str = "",
    *,
    chat_type: ChatType = ChatType.GROUP,
    chat_permissions: str = "send_messages",
    user_id: int = 1,
) -> Membership:
    """Somebody of this role; `words` are an admin's rights or what is left to a restricted member."""
    own = rights(words) if role in {Role.ADMIN, Role.RESTRICTED} else None
    permissions = rights(chat_permissions)
    chat = ChatFacts(
        id=ChatId(1),
        type=chat_type,
        permissions=permissions,
        history_visible=False,
        is_public=False,
        owner_id=None,
        pair=(UserId(1), UserId(2)) if chat_type is ChatType.PRIVATE else None,
        members_count=3,
        last_message_id=MessageId(0),
        created_at=NOW,
    )
    return Membership(
        chat=chat,
        user_id=UserId(user_id),
        role=role,
        rights=policy.judge_rights(chat_type, role, chat=permissions, own=own),
        restricted_until=None,
        joined_at=NOW,
        joined_seq=0,
        first_visible_id=MessageId(0),
        cleared_id=MessageId(0),
        closed_id=None,
        last_read_message_id=MessageId(0),
    )


@pytest.mark.parametrize(
    ("chat_type", "role", "chat", "own", "expected"),
    [
        ("group", "owner", "", None, ALL_OF_A_GROUP),
        ("group", "owner", "send_messages", "", ALL_OF_A_GROUP),
        ("group", "admin", "", "", "send_messages send_media"),
        (
            "group",
            "admin",
            "change_info",
            "ban_members",
            "send_messages send_media change_info ban_members",
        ),
        ("group", "admin", "", "post_messages", "send_messages send_media"),
        ("group", "member", "send_messages pin_messages", None, "send_messages pin_messages"),
        ("group", "member", "", None, ""),
        ("group", "member", "send_messages ban_members", None, "send_messages"),
        ("group", "restricted", "send_messages send_media", "send_messages", "send_messages"),
        ("group", "restricted", "", "send_messages", ""),
        ("group", "restricted", "send_messages", None, ""),
        ("group", "left", "send_messages", "send_messages", ""),
        ("group", "banned", "send_messages", "send_messages", ""),
        ("channel", "owner", "", None, ALL_OF_A_CHANNEL),
        ("channel", "admin", "", "post_messages", "post_messages"),
        ("channel", "admin", "", "send_messages", ""),
        ("channel", "member", "send_messages", None, ""),
        ("channel", "restricted", "send_messages", "send_messages", ""),
        ("private", "member", "", None, PRIVATE),
        ("private", "left", "", None, ""),
    ],
)
def test_what_a_role_may_do(
    chat_type: str, role: str, chat: str, own: str | None, expected: str
) -> None:
    judged = policy.judge_rights(
        ChatType(chat_type),
        Role(role),
        chat=rights(chat),
        own=None if own is None else rights(own),
    )
    assert judged == rights(expected)


@pytest.mark.parametrize(
    ("role", "until", "expected"),
    [
        ("restricted", None, "restricted"),
        ("restricted", LATER, "restricted"),
        ("restricted", NOW, "member"),
        ("banned", None, "banned"),
        ("banned", LATER, "banned"),
        ("banned", NOW, "left"),
        ("member", NOW, "member"),
        ("admin", NOW, "admin"),
        ("owner", NOW, "owner"),
    ],
)
def test_restrictions_and_bans_end_by_themselves(
    role: str, until: datetime | None, expected: str
) -> None:
    assert policy.judge_role(Role(role), until, now=NOW) is Role(expected)


OWNER = member(Role.OWNER, user_id=10)
FULL = member(
    Role.ADMIN,
    "add_members pin_messages change_info delete_messages ban_members invite_users promote_members",
    user_id=11,
)
PROMOTER = member(Role.ADMIN, "promote_members ban_members", user_id=12)
BANNER = member(Role.ADMIN, "ban_members", user_id=13)
EDITOR = member(Role.ADMIN, "change_info", user_id=14)
PLAIN = member(Role.MEMBER, user_id=15)
MUTED = member(Role.RESTRICTED, user_id=16)
GONE = member(Role.LEFT, user_id=17)
BANNED = member(Role.BANNED, user_id=18)
EVERYBODY = {
    "owner": OWNER,
    "full": FULL,
    "promoter": PROMOTER,
    "banner": BANNER,
    "editor": EDITOR,
    "plain": PLAIN,
    "muted": MUTED,
    "gone": GONE,
    "banned": BANNED,
}


@pytest.mark.parametrize(
    ("actor", "may_ban"),
    [
        ("owner", "full promoter banner editor plain muted gone banned"),
        ("full", "promoter banner editor plain muted gone banned"),
        # Not the editor, who has a right that the promoter lacks.
        ("promoter", "banner plain muted gone banned"),
        # Banning an admin takes away rights, for which the banner has none.
        ("banner", "plain muted gone banned"),
        ("editor", ""),
        ("plain", ""),
        ("muted", ""),
        ("gone", ""),
        ("banned", ""),
    ],
)
def test_who_may_ban_whom(actor: str, may_ban: str) -> None:
    allowed = {
        name for name, target in EVERYBODY.items() if policy.may_ban(EVERYBODY[actor], target)
    }
    assert allowed == set(may_ban.split())


@pytest.mark.parametrize(
    ("actor", "may_promote"),
    [
        ("owner", "full promoter banner editor plain muted"),
        ("full", "promoter banner editor plain muted"),
        ("promoter", "banner plain muted"),
        ("banner", ""),
        ("editor", ""),
        ("plain", ""),
        ("muted", ""),
        ("gone", ""),
        ("banned", ""),
    ],
)
def test_who_may_promote_whom_to_nothing_much(actor: str, may_promote: str) -> None:
    allowed = {
        name
        for name, target in EVERYBODY.items()
        if policy.may_promote(EVERYBODY[actor], target, granted=policy.NONE)
    }
    assert allowed == set(may_promote.split())


@pytest.mark.parametrize(
    ("actor", "granted", "allowed"),
    [
        ("owner", ALL_OF_A_GROUP, True),
        ("full", ALL_OF_A_GROUP, True),
        ("promoter", "ban_members promote_members", True),
        ("promoter", "change_info", False),
        ("promoter", "ban_members delete_messages", False),
        ("banner", "ban_members", False),
        ("plain", "send_messages", False),
    ],
)
def test_nobody_grants_what_they_lack(actor: str, granted: str, allowed: bool) -> None:
    assert policy.may_promote(EVERYBODY[actor], PLAIN, granted=rights(granted)) is allowed


def test_nobody_promotes_or_bans_themselves() -> None:
    for actor in EVERYBODY.values():
        assert not policy.may_promote(actor, actor, granted=policy.NONE)
        assert not policy.may_ban(actor, actor)
        assert not policy.may_hand_over(actor, actor)


def test_only_the_owner_hands_over_and_only_to_a_member() -> None:
    for name, actor in EVERYBODY.items():
        for target in (PLAIN, MUTED, EDITOR):
            assert policy.may_hand_over(actor, target) is (name == "owner")
    assert not policy.may_hand_over(OWNER, GONE)
    assert not policy.may_hand_over(OWNER, BANNED)


def test_an_admin_may_step_down_and_an_owner_may_not() -> None:
    assert policy.may_demote(EDITOR, EDITOR)
    assert not policy.may_demote(OWNER, OWNER)
    assert not policy.may_demote(PLAIN, PLAIN)
    assert policy.may_demote(PROMOTER, BANNER)
    assert not policy.may_demote(BANNER, EDITOR)


@pytest.mark.parametrize(
    ("actor", "below"),
    [
        ("owner", "full promoter banner editor plain muted gone banned"),
        ("full", "promoter banner editor plain muted gone banned"),
        ("promoter", "banner plain muted gone banned"),
        ("banner", "plain muted gone banned"),
        ("editor", "plain muted gone banned"),
        ("plain", ""),
        ("muted", ""),
        ("gone", ""),
        ("banned", ""),
    ],
)
def test_who_stands_above_whom(actor: str, below: str) -> None:
    found = {n for n, target in EVERYBODY.items() if policy.outranks(EVERYBODY[actor], target)}
    assert found == set(below.split())


WRITER = member(Role.ADMIN, "ban_members", chat_permissions="", user_id=19)


@pytest.mark.parametrize(
    ("actor", "target", "granted", "allowed"),
    [
        (OWNER, PLAIN, "", True),
        (OWNER, PLAIN, "send_messages change_info", True),
        (OWNER, GONE, "", False),
        (OWNER, BANNED, "", False),
        (OWNER, OWNER, "", False),
        (BANNER, PLAIN, "", True),
        (BANNER, MUTED, "send_messages", True),
        # What the banner does not have himself.
        (BANNER, PLAIN, "change_info", False),
        (BANNER, EDITOR, "", False),
        (BANNER, GONE, "", False),
        (EDITOR, PLAIN, "", False),
        (PLAIN, MUTED, "", False),
        (WRITER, PLAIN, "send_messages send_media", True),
        (WRITER, PLAIN, "pin_messages", False),
        (member(Role.OWNER, chat_type=ChatType.CHANNEL, user_id=10), PLAIN, "", False),
        (member(Role.OWNER, chat_type=ChatType.CHANNEL, user_id=10), GONE, "", False),
    ],
)
def test_who_may_restrict_whom_to_what(
    actor: Membership, target: Membership, granted: str, allowed: bool
) -> None:
    assert policy.may_restrict(actor, target, granted=rights(granted)) is allowed


@pytest.mark.parametrize(
    ("actor", "given"),
    [
        (OWNER, ALL_OF_A_GROUP.replace(" promote_members", "")),
        (BANNER, "send_messages send_media ban_members"),
        (PROMOTER, "send_messages send_media ban_members"),
        (PLAIN, "send_messages"),
        (
            member(Role.OWNER, chat_type=ChatType.CHANNEL),
            ALL_OF_A_CHANNEL.replace(" promote_members", ""),
        ),
    ],
)
def test_a_new_admin_gets_what_the_promoter_has_but_promoting(
    actor: Membership, given: str
) -> None:
    assert policy.default_admin_rights(actor) == rights(given)


def test_admins_of_equal_rights_leave_each_other_alone() -> None:
    twin = member(Role.ADMIN, "promote_members ban_members", user_id=99)
    assert not policy.outranks(PROMOTER, twin)
    assert not policy.may_ban(PROMOTER, twin)
    assert not policy.may_demote(PROMOTER, twin)


@pytest.mark.parametrize(
    ("chat_type", "role", "own", "chat", "posts"),
    [
        ("group", "member", "", "send_messages", True),
        ("group", "member", "", "send_media", False),
        ("group", "admin", "", "", True),
        ("group", "restricted", "", "send_messages", False),
        ("group", "left", "", "send_messages", False),
        ("group", "banned", "", "send_messages", False),
        ("channel", "member", "", "send_messages", False),
        ("channel", "admin", "change_info", "", False),
        ("channel", "admin", "post_messages", "", True),
        ("channel", "owner", "", "", True),
        ("private", "member", "", "", True),
    ],
)
def test_who_posts(chat_type: str, role: str, own: str, chat: str, posts: bool) -> None:
    membership = member(Role(role), own, chat_type=ChatType(chat_type), chat_permissions=chat)
    assert policy.may_post(membership) is posts


@pytest.mark.parametrize(
    ("chat_type", "role", "own", "chat", "posts"),
    [
        ("group", "member", "", "send_media", True),
        ("group", "member", "", "send_messages", False),
        ("group", "member", "", "", False),
        ("group", "admin", "", "", True),
        ("group", "restricted", "send_media", "send_media", True),
        ("group", "restricted", "send_messages", "send_media", False),
        ("group", "left", "", "send_media", False),
        ("group", "banned", "", "send_media", False),
        ("channel", "member", "", "send_media", False),
        ("channel", "admin", "change_info", "", False),
        ("channel", "admin", "post_messages", "", True),
        ("channel", "owner", "", "", True),
        ("private", "member", "", "", True),
    ],
)
def test_who_posts_media(chat_type: str, role: str, own: str, chat: str, posts: bool) -> None:
    membership = member(Role(role), own, chat_type=ChatType(chat_type), chat_permissions=chat)
    assert policy.may_post_media(membership) is posts


@pytest.mark.parametrize(
    ("past", "comes_in"),
    [(None, True), (GONE, True), (BANNED, False)],
)
def test_who_is_banned_comes_in_by_no_door(past: Membership | None, comes_in: bool) -> None:
    assert policy.may_come_in(past) is comes_in


@pytest.mark.parametrize(
    ("chat_type", "role", "own", "lists"),
    [
        ("group", "member", "", True),
        ("group", "restricted", "", True),
        ("group", "left", "", False),
        ("group", "banned", "", False),
        ("channel", "member", "", False),
        ("channel", "admin", "", True),
        ("channel", "owner", "", True),
        ("private", "member", "", True),
    ],
)
def test_who_lists_the_members(chat_type: str, role: str, own: str, lists: bool) -> None:
    membership = member(Role(role), own, chat_type=ChatType(chat_type))
    assert policy.may_list_members(membership) is lists


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (policy.may_change_info, "owner full editor"),
        (policy.may_set_permissions, "owner full promoter banner"),
        (policy.may_make_public, "owner"),
        (policy.may_set_history, "owner full editor"),
        (policy.may_delete_chat, "owner"),
        (policy.may_list_banned, "owner full promoter banner"),
        (policy.may_add_members, "owner full"),
        (policy.may_manage_invites, "owner full"),
        (policy.may_delete_others, "owner full"),
        (policy.may_ban_outsiders, "owner full promoter banner"),
    ],
)
def test_what_whom_a_group_lets_do(rule: object, allowed: str) -> None:
    assert callable(rule)
    assert {name for name, it in EVERYBODY.items() if rule(it)} == set(allowed.split())


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ("title", "owner full editor"),
        ("description", "owner full editor"),
        ("photo", "owner full editor"),
        ("username", "owner"),
        ("permissions", "owner full promoter banner"),
        ("history_visible", "owner full editor"),
        # Each of them by its own rule.
        ("title permissions", "owner full"),
        ("title photo username", "owner"),
        ("owner_id", ""),
    ],
)
def test_who_changes_which_field_of_a_group(fields: str, allowed: str) -> None:
    found = {name for name, it in EVERYBODY.items() if policy.may_update(it, fields.split())}
    assert found == set(allowed.split())


@pytest.mark.parametrize(
    ("actor", "given", "allowed"),
    [
        (OWNER, "send_messages change_info pin_messages", True),
        (FULL, "send_messages change_info pin_messages", True),
        (BANNER, "send_messages send_media", True),
        (BANNER, "send_messages change_info", False),
        # What members have already is given by nobody, and taking away gives nothing.
        (
            member(Role.ADMIN, "ban_members", chat_permissions="change_info", user_id=13),
            "change_info",
            True,
        ),
        (BANNER, "", True),
        (PLAIN, "", False),
        (member(Role.OWNER, chat_type=ChatType.CHANNEL), "", False),
        (member(Role.MEMBER, chat_type=ChatType.PRIVATE), "", False),
    ],
)
def test_nobody_grants_all_what_they_lack(actor: Membership, given: str, allowed: bool) -> None:
    permissions = rights(given)
    assert policy.may_update(actor, ["permissions"], permissions=permissions) is allowed


def test_a_private_chat_has_nothing_to_manage() -> None:
    one = member(Role.MEMBER, chat_type=ChatType.PRIVATE, user_id=1)
    other = member(Role.MEMBER, chat_type=ChatType.PRIVATE, user_id=2)
    for rule in (
        policy.may_change_info,
        policy.may_set_permissions,
        policy.may_make_public,
        policy.may_add_members,
        policy.may_manage_invites,
        policy.may_ban_outsiders,
    ):
        assert not rule(one)
    assert not policy.may_update(one, [])
    assert not policy.may_ban(one, other)
    assert policy.may_delete_chat(one)
    assert policy.may_delete_others(one)
    assert (one.peer_id, other.peer_id) == (2, 1)


@pytest.mark.parametrize(
    ("chat_type", "is_public", "always"),
    [
        ("group", False, False),
        ("group", True, True),
        ("channel", False, True),
        ("channel", True, True),
        ("private", False, True),
    ],
)
def test_where_the_history_is_always_visible(chat_type: str, is_public: bool, always: bool) -> None:
    assert policy.always_shows_history(ChatType(chat_type), is_public=is_public) is always


def test_permissions_are_words_in_one_order() -> None:
    assert policy.permission_names(rights("post_messages send_messages")) == (
        "send_messages",
        "post_messages",
    )
    assert policy.permission_names(policy.NONE) == ()
