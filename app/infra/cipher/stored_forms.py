"""Which classes of data may lie in the database without a cipher, because a setting said so once.

Where a class is sealed throughout, a plain value in its place is as invalid as a moved one. So whoever can write
to the database must not be able to say that it is not: every form but `sealed` counts only with a mark, an HMAC
under a key that the database does not tell. A note that is missing or whose mark is wrong allows nothing.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, update

from app.infra.cipher.places import Kind, Place, list_places
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import upsert

# `converting`: rows of both forms, and nobody writes a plain one any more, whatever their settings say.
SEALED, PLAIN, MIXED, CONVERTING = "sealed", "plain", "mixed", "converting"
KINDS: tuple[Kind, ...] = ("personal", "messages")
STATE_NAMES = tuple(f"stored_{kind}" for kind in KINDS)
PLAIN_MARK = b"\x00"

_MARKED = frozenset({PLAIN, MIXED, CONVERTING})
_TOKEN_BYTES = 8


@dataclass(frozen=True, slots=True)
class Noted:
    """`mixed`: the kinds of which rows of the other form may remain. `forged`: names of notes that were not
    ours, and counted as `sealed`.
    """

    mixed: list[Kind]
    forged: list[str]


def read_form(mark_key: bytes, kind: Kind, value: str | None) -> str | None:
    """Of a row of `server_state`; None: there is no note, or it is not ours."""
    if value is None or value == SEALED:
        return value
    form, _, rest = value.partition("$")
    token, _, mark = rest.partition("$")
    if form not in _MARKED or not hmac.compare_digest(_mark(mark_key, kind, form, token), mark):
        return None
    return form


async def note_forms(
    tx: Tx, mark_key: bytes, wanted: Mapping[Kind, bool], *, trusts_unmarked: bool = False
) -> Noted:
    """At start, after the keys were proved. `wanted`: whether the settings ask for encryption.
    `trusts_unmarked`: this database is of a time before notes had marks.
    """
    statement = select(ServerStateRow.name, ServerStateRow.value)
    rows = await tx.all(statement.where(ServerStateRow.name.in_(STATE_NAMES)))
    state = {row.name: row.value for row in rows}
    noted = Noted([], [])
    for kind, is_sealed in wanted.items():
        name = f"stored_{kind}"
        value = state.get(name)
        marked = known = read_form(mark_key, kind, value)
        if known is None and trusts_unmarked:
            known = value or await _look(tx, kind, is_sealed=is_sealed)
        elif known is None:
            # The strict form of these settings: what is stored otherwise was not said by us.
            known = SEALED if is_sealed else await _look(tx, kind, is_sealed=False)
            noted.forged.extend([name] if value else [])
        form = _next_form(known, is_sealed=is_sealed)
        if form != marked:
            await set_form(tx, mark_key, kind, form)
        if form not in {SEALED, PLAIN}:
            noted.mixed.append(kind)
    return noted


async def set_form(tx: Tx, mark_key: bytes, kind: Kind, form: str) -> str:
    """What stands there now."""
    value = _store(mark_key, kind, form)
    row = {"name": f"stored_{kind}", "value": value}
    await upsert(tx, ServerStateRow, [row], index=["name"], update=["value"])
    return value


async def change_form(tx: Tx, mark_key: bytes, kind: Kind, form: str, *, but_for: str) -> bool:
    """As `set_form`, if `but_for` stands there still: no server was started meanwhile that writes otherwise."""
    changed = await tx.execute(
        update(ServerStateRow)
        .where(ServerStateRow.name == f"stored_{kind}", ServerStateRow.value == but_for)
        .values(value=_store(mark_key, kind, form))
    )
    return changed == 1


def places_of(kind: Kind) -> Sequence[Place]:
    return [place for place in list_places() if place.sealed.kind == kind]


def _next_form(known: str, *, is_sealed: bool) -> str:
    """With a server that is started now."""
    if known == CONVERTING and is_sealed:
        return CONVERTING
    own = SEALED if is_sealed else PLAIN
    return own if known == own else MIXED


def _store(mark_key: bytes, kind: Kind, form: str) -> str:
    """A token tells two notes of one form apart."""
    if form == SEALED:
        return SEALED
    token = secrets.token_hex(_TOKEN_BYTES)
    return f"{form}${token}${_mark(mark_key, kind, form, token)}"


def _mark(mark_key: bytes, kind: Kind, form: str, token: str) -> str:
    message = f"v1|{kind}|{form}|{token}".encode()
    return hmac.digest(mark_key, message, hashlib.sha256).hex()


async def _look(tx: Tx, kind: Kind, *, is_sealed: bool) -> str:
    """Once, for a database of before this was noted."""
    for place in places_of(kind):
        mark = func.substr(place.column, 1, 1)
        other = (mark == PLAIN_MARK) if is_sealed else (mark != PLAIN_MARK)
        # Emptied values have no first byte.
        found = select(place.row_id).where(other, func.length(place.column) > 0).limit(1)
        if await tx.first(found) is not None:
            return MIXED
    return SEALED if is_sealed else PLAIN
