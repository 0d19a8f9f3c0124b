"""Who sees, edits and deletes which message, and who may write, as tables written by hand."""

from dataclasses import replace

import pytest

from app.features.chats.policy import ChatType, Membership, Role
from app.features.messages import policy
from app.features.messages.access import judge_writing, list_block_pairs
from app.features.messages.errors import PeerBlocked
from app.kernel.ids import MessageId, UserId
from app.kernel.problems import Forbidden
from tests.unit.features.chats.test_policy import member

ME, OTHER = UserId(1), UserId(2)


def someone(
    role: str, words: str = "", chat: str = "group", may: str = "send_messages"
) -> Membership:
    return member(Role(role), words, chat_type=ChatType(chat), chat_permissions=may, user_id=ME)


OWNER, PLAIN, QUIET = someone("owner"), someone("member"), someone("member", may="")
MUTED, CLEANER = someone("restricted"), someone("admin", "delete_messages")
POSTER = someone("admin", "post_messages", "channel")
READER, CHANNEL_CLEANER = (
    someone("member", chat="channel"),
    someone("admin", "delete_messages", "channel"),
)
PARTY = someone("member", chat="private")
GONE, BANNED = someone("left"), someone("banned")
ARTIST = someone("member", may="send_media")
WRITER = someone("member", may="send_messages send_media")


@pytest.mark.parametrize(
    ("who", "sender", "kind", "is_forward", "allowed"),
    [
        (PLAIN, ME, "text", False, True),
        (PLAIN, OTHER, "text", False, False),
        (PLAIN, ME, "service", False, False),
        (PLAIN, ME, "photo", False, False),
        (ARTIST, ME, "photo", False, True),
        (ARTIST, ME, "text", False, False),
        (ARTIST, ME, "photo", True, False),
        (ARTIST, OTHER, "photo", False, False),
        (WRITER, ME, "voice", False, True),
        (WRITER, ME, "service", False, False),
        (POSTER, ME, "document", False, True),
        (PARTY, ME, "video", False, True),
        (PLAIN, ME, "text", True, False),
        (QUIET, ME, "text", False, False),
        (MUTED, ME, "text", False, False),
        (OWNER, OTHER, "text", False, False),
        (OWNER, ME, "text", False, True),
        (CLEANER, OTHER, "text", False, False),
        (POSTER, ME, "text", False, True),
        (POSTER, OTHER, "text", False, False),
        (READER, ME, "text", False, False),
        (PARTY, ME, "text", False, True),
        (PARTY, OTHER, "text", False, False),
        (GONE, ME, "text", False, False),
        (BANNED, ME, "text", False, False),
    ],
)
def test_who_edits_what(
    who: Membership, sender: UserId, kind: str, is_forward: bool, allowed: bool
) -> None:
    judged = policy.may_edit(who, sender_id=sender, message_type=kind, is_forward=is_forward)
    assert judged is allowed


@pytest.mark.parametrize(
    ("who", "sender", "kind", "allowed"),
    [
        (PLAIN, ME, "text", True),
        (PLAIN, OTHER, "text", False),
        (PLAIN, ME, "service", False),
        (QUIET, ME, "text", True),
        (MUTED, ME, "text", True),
        (MUTED, OTHER, "text", False),
        (CLEANER, OTHER, "text", True),
        (CLEANER, ME, "service", True),
        (OWNER, OTHER, "service", True),
        (POSTER, ME, "text", True),
        (POSTER, OTHER, "text", False),
        (POSTER, ME, "service", False),
        (READER, ME, "text", False),
        (READER, OTHER, "text", False),
        (CHANNEL_CLEANER, OTHER, "text", True),
        (PARTY, ME, "text", True),
        (PARTY, OTHER, "text", False),
        (PARTY, ME, "service", False),
    ],
)
def test_who_deletes_what_for_everyone(
    who: Membership, sender: UserId, kind: str, allowed: bool
) -> None:
    assert policy.may_delete_for_everyone(who, sender_id=sender, message_type=kind) is allowed


@pytest.mark.parametrize(
    ("first_visible", "cleared", "floor"),
    [(0, 0, 0), (1, 0, 0), (7, 0, 6), (0, 5, 5), (7, 5, 6), (7, 6, 6), (7, 9, 9)],
)
def test_what_is_from_before_or_cleared_is_not_visible(
    first_visible: int, cleared: int, floor: int
) -> None:
    who = replace(PLAIN, first_visible_id=MessageId(first_visible), cleared_id=MessageId(cleared))
    assert policy.visible_floor(who) == floor
    assert [policy.is_visible(who, MessageId(floor + n)) for n in (-1, 0, 1, 2)] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("who", "is_hidden", "allowed"),
    [(PLAIN, False, True), (PLAIN, True, False), (MUTED, False, True), (READER, False, True)]
    + [(who, False, False) for who in (GONE, BANNED)],
)
def test_who_reads_a_message(who: Membership, is_hidden: bool, allowed: bool) -> None:
    assert policy.may_read(who, MessageId(1), is_hidden=is_hidden) is allowed
    newcomer = replace(who, first_visible_id=MessageId(2))
    assert not policy.may_read(newcomer, MessageId(1), is_hidden=is_hidden)


@pytest.mark.parametrize(
    ("who", "text", "media"),
    [
        (PLAIN, True, False),
        (ARTIST, False, True),
        (WRITER, True, True),
        (QUIET, False, False),
        (MUTED, False, False),
        (POSTER, True, True),
        (READER, False, False),
        (PARTY, True, True),
        (OWNER, True, True),
        (GONE, False, False),
    ],
)
def test_texts_and_media_are_two_rights(who: Membership, text: bool, media: bool) -> None:
    assert policy.may_write(who) is text
    assert policy.may_write(who, text=False, media=True) is media
    assert policy.may_write(who, text=True, media=True) is (text and media)


@pytest.mark.parametrize(
    ("files", "message_type"),
    [(kind, kind) for kind in ("photo", "video", "audio", "voice", "document")]
    + [
        ("photo photo", "photo"),
        ("photo video", "photo"),
        ("video photo photo", "video"),
        ("audio audio", "audio"),
        ("document document document", "document"),
        ("voice voice", None),
        ("voice audio", None),
        ("photo document", None),
        ("document video", None),
        ("audio photo", None),
        ("audio document", None),
    ],
)
def test_which_files_go_into_one_message(files: str, message_type: str | None) -> None:
    assert policy.judge_album(files.split()) == message_type


MINE, THEIRS = (ME, OTHER), (OTHER, ME)


@pytest.mark.parametrize(
    ("who", "blocks", "problem"),
    [
        (PLAIN, set(), None),
        (PLAIN, {MINE, THEIRS}, None),
        (QUIET, set(), Forbidden),
        (MUTED, set(), Forbidden),
        (READER, set(), Forbidden),
        (GONE, set(), Forbidden),
        (PARTY, set(), None),
        (PARTY, {(UserId(3), ME), (ME, UserId(3))}, None),
        (PARTY, {THEIRS}, Forbidden),
        (PARTY, {MINE}, PeerBlocked),
        # Whoever was blocked is not told that he, too, has blocked.
        (PARTY, {MINE, THEIRS}, Forbidden),
    ],
)
def test_who_may_write(
    who: Membership, blocks: set[tuple[UserId, UserId]], problem: type[Exception] | None
) -> None:
    judged = judge_writing(who, blocks)
    assert (None if judged is None else type(judged)) is problem
    # A client tells its user by the code, a person by the sentence.
    assert judged is None or judged.detail


def test_the_sentence_says_whether_the_chat_or_the_person_refuses() -> None:
    refusals = [
        judge_writing(QUIET, set()),
        judge_writing(QUIET, set(), text=False, media=True),
        judge_writing(PLAIN, set(), text=False, media=True),
        judge_writing(ARTIST, set(), text=True, media=True),
        judge_writing(PARTY, {THEIRS}, text=False, media=True),
    ]
    assert [str(refusal) for refusal in refusals] == [
        "You may not write in this chat",
        "You may not write in this chat",
        "You may not send media in this chat",
        "You may not write in this chat",
        "You may not write to this user",
    ]


def test_only_the_two_of_a_private_chat_are_asked_for_blocks() -> None:
    saved = replace(PARTY, chat=replace(PARTY.chat, pair=(ME, ME)))
    assert list_block_pairs([PLAIN, READER, saved]) == []
    assert list_block_pairs([PLAIN, PARTY, saved]) == [THEIRS, MINE]
    assert judge_writing(saved, set()) is None
