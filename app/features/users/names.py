"""The blind index of names: a keyed token for every prefix of every word, so that names stay sealed."""

from sqlalchemy import delete, insert

from app.features.users.models import UserNameTokenRow
from app.infra.cipher.blind_index import BlindIndex
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.text import name_words

# Longer words are found by their first 16 characters.
_LONGEST_PREFIX = 16


async def replace_name_tokens(
    tx: Tx, index: BlindIndex, user_id: UserId, *, first_name: str, last_name: str | None
) -> None:
    """Let the user be found by this name, and by no earlier one."""
    await tx.execute(delete(UserNameTokenRow).where(UserNameTokenRow.user_id == user_id))
    tokens = name_tokens(index, f"{first_name} {last_name or ''}")
    rows = [{"token": token, "user_id": user_id} for token in sorted(tokens)]
    if rows:
        await tx.execute(insert(UserNameTokenRow), rows)


def name_tokens(index: BlindIndex, name: str) -> set[bytes]:
    """The tokens of all prefixes of all words of a name."""
    return {
        index.name_prefix(word[:length])
        for word in name_words(name)
        for length in range(1, min(len(word), _LONGEST_PREFIX) + 1)
    }


def query_tokens(index: BlindIndex, query: str) -> list[list[bytes]]:
    """For each word of `query`, the longest first, what a name must have one of: the word's token under each
    key. A name's tokens are all under one.
    """
    prefixes = {word[:_LONGEST_PREFIX] for word in name_words(query)}
    longest_first = sorted(prefixes, key=lambda prefix: (-len(prefix), prefix))
    return [[one.name_prefix(prefix) for one in index.all()] for prefix in longest_first]
