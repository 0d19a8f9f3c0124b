"""Finding people: by username, by words of the name among people one knows, by exact phone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Select, exists, select, union
from sqlalchemy.orm import aliased

from app.features.users.find_by_phone import find_by_phone, load_region
from app.features.users.lookups import Budget, spend_lookups
from app.features.users.models import ContactRow, UsernameRow, UserNameTokenRow
from app.features.users.names import query_tokens
from app.features.users.rules import AcquaintanceRule
from app.features.users.views import Profile, load_profiles
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.phones import find_phone, is_dialable

MAX_RESULTS = 50

# Three characters: fewer would list the accounts of a server letter by letter.
_USERNAME_PREFIX = re.compile(r"@?([a-z][a-z0-9_]{2,31})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What one person looks for. `directory`: names among those the viewer knows, or of everyone."""

    viewer: UserId
    query: str
    limit: int
    directory: Literal["known", "open"]
    lookups_per_day: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`budget` is there when a number was looked up."""

    profiles: list[Profile]
    budget: Budget | None


async def search_users(
    db: Database,
    keyring: Keyring,
    index: BlindIndex,
    *,
    search: Search,
    rules: Sequence[AcquaintanceRule],
) -> Found:
    """The phone's owner, then usernames in their order, then names; at most `MAX_RESULTS`.

    A number that is hidden answers as one that nobody has.

    Raises:
        lookups_exhausted
    """
    asks_for_phone = is_dialable(search.query)

    async def work(tx: Tx) -> Found:
        ids: list[UserId] = []
        budget: Budget | None = None
        if asks_for_phone:
            ids, budget = await _find_phone(tx, keyring, index, search)
        ids += await _find_usernames(tx, search.query)
        ids += await _find_names(tx, index, search, rules)
        distinct = list(dict.fromkeys(ids))[: min(search.limit, MAX_RESULTS)]
        profiles = await load_profiles(tx, keyring, viewer=search.viewer, user_ids=distinct)
        found = [profiles[user_id] for user_id in distinct if user_id in profiles]
        living = [profile for profile in found if not profile.is_deleted]
        return Found(profiles=living, budget=budget)

    # Looking up a number is counted, and counting writes.
    return await (db.write(work) if asks_for_phone else db.read(work))


async def _find_phone(
    tx: Tx, keyring: Keyring, index: BlindIndex, search: Search
) -> tuple[list[UserId], Budget | None]:
    region = await load_region(tx, keyring, user_id=search.viewer)
    phone = find_phone(search.query, region=region)
    if phone is None:
        return [], None
    budget = await spend_lookups(
        tx, index, user_id=search.viewer, phones=[phone], per_day=search.lookups_per_day
    )
    found = await find_by_phone(tx, index, viewer=search.viewer, phones=[phone])
    return list(found.values()), budget


async def _find_usernames(tx: Tx, query: str) -> list[UserId]:
    match = _USERNAME_PREFIX.fullmatch(query.strip().lower())
    if match is None:
        return []
    prefix = match.group(1)
    # A range instead of LIKE: no character of it is a wildcard. "{" stands behind all that a
    # username may hold.
    statement = (
        select(UsernameRow.user_id)
        .where(
            UsernameRow.name_key >= prefix,
            UsernameRow.name_key < prefix + "{",
            UsernameRow.user_id.is_not(None),
        )
        .order_by(UsernameRow.name_key)
        .limit(MAX_RESULTS)
    )
    return [user_id for user_id in await tx.scalars(statement) if user_id is not None]


async def _find_names(
    tx: Tx, index: BlindIndex, search: Search, rules: Sequence[AcquaintanceRule]
) -> list[UserId]:
    """Whose name has a word for each word of the query."""
    words = query_tokens(index, search.query)
    if not words:
        return []
    statement = select_named(words)
    if search.directory == "known":
        contacts = select(ContactRow.user_id).where(ContactRow.owner_id == search.viewer)
        met = [rule.select_acquaintances(search.viewer) for rule in rules]
        known = union(contacts, *met) if met else contacts
        statement = statement.where(UserNameTokenRow.user_id.in_(known))
    return list(await tx.scalars(statement))


def select_named(words: Sequence[Sequence[bytes]]) -> Select[UserId]:
    """Those who have a token of each word, by id: a walk along the index of the first and a probe for each
    other, which ends with the last result. Counting the tokens of each person instead would read all
    that a short word has.
    """
    first, *others = words
    statement = select(UserNameTokenRow.user_id).where(_is_one_of(UserNameTokenRow, first))
    for tokens in others:
        other = aliased(UserNameTokenRow)
        statement = statement.where(
            exists().where(_is_one_of(other, tokens), other.user_id == UserNameTokenRow.user_id)
        )
    return statement.order_by(UserNameTokenRow.user_id).limit(MAX_RESULTS)


def _is_one_of(row: type[UserNameTokenRow], tokens: Sequence[bytes]) -> ColumnElement[bool]:
    return row.token == tokens[0] if len(tokens) == 1 else row.token.in_(tokens)
