"""No table keeps anything about a person that nobody decided about: what becomes of it when the account is
deleted, and whether it is exported.
"""

from typing import NamedTuple

from sqlalchemy import Column

from app.catalog import FEATURES
from app.features.account.schemas import AccountExport
from app.infra.database.tables import METADATA


class Fate(NamedTuple):
    """`erased`: no row with the person's id stays, or why some do. `exported`: the section, or why none."""

    erased: str
    exported: str


ERASED = "erased"
_NO_SECRETS = "not: a secret, or what one is compared with"
FATES = {
    "audit_events.user_id": Fate("kept: the chain; what is personal goes with the key", "events"),
    "blobs.owner_id": Fate("kept: of files that kept messages show; others go", "files"),
    "blocks.owner_id": Fate(ERASED, "blocked"),
    "blocks.user_id": Fate(ERASED, "not: whom others block is theirs"),
    "chat_invites.creator_id": Fate("kept: the link is the chat's", "not: the link is the chat's"),
    "chat_participants.user_id": Fate("kept: as of anybody who left", "chats"),
    "chats.owner_id": Fate("kept: of chats that are deleted; others pass on", "chats"),
    "chats.pair_key": Fate("kept: of private chats, deleted or left to the other", "chats"),
    "contacts.owner_id": Fate(ERASED, "contacts"),
    "contacts.user_id": Fate(
        "kept: the other's own name for a person who is deleted", "not: what others save is theirs"
    ),
    "doomed_objects.owner_id": Fate(
        "kept: for minutes, of an upload under way", "not: no file yet"
    ),
    "erasures.user_id": Fate("kept: until nothing is left", "not: there is none before the end"),
    "files.owner_id": Fate("kept: with kept messages that show them; others go", "files"),
    "factor_tries.user_id": Fate(ERASED, _NO_SECRETS),
    "hidden_messages.user_id": Fate(ERASED, "not: ids of messages of others"),
    "message_mentions.user_id": Fate(ERASED, "not: they are in messages of others"),
    "messages.sender_id": Fate("kept: tombstones, or all with keep_messages", "messages"),
    "password_tokens.user_id": Fate(ERASED, _NO_SECRETS),
    "phone_lookups.user_id": Fate(ERASED, "lookups"),
    "recovery_codes.user_id": Fate(ERASED, _NO_SECRETS),
    "second_factors.user_id": Fate(ERASED, "two_step"),
    "sessions.user_id": Fate("kept: emptied, for as long as any ended session", "sessions"),
    "uploads.owner_id": Fate(ERASED, "uploads"),
    "user_name_tokens.user_id": Fate(ERASED, "not: made of the name"),
    "usernames.user_id": Fate(ERASED, "profile"),
    "users.id": Fate("kept: emptied, so that the id is never given out again", "profile"),
}
OF_NOBODY = {
    "audit_phones": "by the blind index of a phone; erased with its account, exported as sign_in_attempts",
    "audit_totals": "numbers",
    "emptied_chats": "by chat; gone within minutes",
    "file_uses": "of messages, chats and people: by their ids; erased with what shows the file",
    "file_work": "by file; gone within minutes",
    "keys": "by owner; the person's is destroyed",
    "phone_verifications": "by the blind index of a phone, for the limits; emptied",
    "refresh_tokens": "by session; erased",
    "renditions": "by blob; gone with it",
    "revisions": "numbers",
    "revocations": "by session",
    "scopes": "numbers",
    "server_state": "of the installation",
    "spent_lookups": "a number by the blind index of a phone, for the limits; gone with the day",
    "updates": "references by scope; those of the person's own scope are erased",
    "upload_parts": "by upload; gone with it",
    "ws_tickets": "by session; erased",
}
_NAMES = {"user_id", "owner_id", "creator_id", "sender_id", "pair_key", "member_id", "author_id"}


def refers_to_a_person(column: "Column[object]") -> bool:
    if column.table.name == "users":
        return column.name == "id"
    is_key = any(key.column.table.name == "users" for key in column.foreign_keys)
    return is_key or column.name in _NAMES


def test_every_column_that_names_a_person_has_a_fate() -> None:
    assert FEATURES
    found = {
        f"{table.name}.{column.name}"
        for table in METADATA.sorted_tables
        for column in table.columns
        if refers_to_a_person(column)
    }
    assert found == FATES.keys()


def test_every_other_table_is_known_to_name_nobody() -> None:
    named = {name.partition(".")[0] for name in FATES}
    assert {table.name for table in METADATA.sorted_tables} == named | OF_NOBODY.keys()
    assert named.isdisjoint(OF_NOBODY)


def test_every_fate_says_why() -> None:
    for fate in FATES.values():
        assert fate.erased == ERASED or fate.erased.startswith("kept: ")
        assert fate.exported in AccountExport.model_fields or fate.exported.startswith("not: ")
