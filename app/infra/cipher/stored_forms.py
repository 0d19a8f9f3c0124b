"""Which classes of data may lie in the database without a cipher, because a setting said so once.

Where a class is known to be sealed throughout, a plain value in its place is as invalid as a moved one.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select

from app.infra.cipher.places import Kind, Place, list_places
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import upsert

SEALED, PLAIN, MIXED = "sealed", "plain", "mixed"
KINDS: tuple[Kind, ...] = ("personal", "messages")
STATE_NAMES = tuple(f"stored_{kind}" for kind in KINDS)
PLAIN_MARK = b"\x00"


def kinds_that_hold_plain(state: Mapping[str, str]) -> frozenset[Kind]:
    """Of rows of `server_state`; what is not known may be either."""
    return frozenset(kind for kind in KINDS if state.get(f"stored_{kind}") != SEALED)


async def note_forms(tx: Tx, wanted: Mapping[Kind, bool]) -> list[Kind]:
    """At start, after the keys were proved. `wanted`: whether the settings ask for encryption.

    Returns:
        The kinds of which rows of the other form may remain.
    """
    statement = select(ServerStateRow.name, ServerStateRow.value)
    rows = await tx.all(statement.where(ServerStateRow.name.in_(STATE_NAMES)))
    state = {row.name: row.value for row in rows}
    mixed: list[Kind] = []
    for kind, is_sealed in wanted.items():
        name = f"stored_{kind}"
        known = state.get(name) or await _look(tx, kind, is_sealed=is_sealed)
        form = SEALED if is_sealed else PLAIN
        form = form if known == form else MIXED
        if form != state.get(name):
            await set_form(tx, kind, form)
        if form == MIXED:
            mixed.append(kind)
    return mixed


async def set_form(tx: Tx, kind: Kind, form: str) -> None:
    row = {"name": f"stored_{kind}", "value": form}
    await upsert(tx, ServerStateRow, [row], index=["name"], update=["value"])


def places_of(kind: Kind) -> Sequence[Place]:
    return [place for place in list_places() if place.sealed.kind == kind]


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
