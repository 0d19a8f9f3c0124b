"""People as they stand beside what they wrote: the same for every viewer, so nothing of privacy is in it; and
beside others in a list, with their photos as one viewer may see them.
"""

from collections.abc import Collection, Sequence
from typing import Any, TypedDict

from sqlalchemy import Select, select

from app.features.files.photos import PhotoView, load_photos
from app.features.users.models import UserRow
from app.features.users.people import REVISION, open_field
from app.features.users.policy import may_see_photo, parse_privacy
from app.features.users.relations import load_relations
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.database.key_lists import by_dialect, id_parameters, is_listed
from app.infra.database.tx import Dialect, Tx
from app.kernel.ids import UserId


class Sender(TypedDict):
    """On the wire. A deleted account keeps its id and nothing else."""

    id: int
    first_name: str
    last_name: str | None
    username: str | None
    is_deleted: bool


class Portrait(Sender):
    """As one viewer sees it."""

    photo: PhotoView | None


async def load_senders(
    tx: Tx, keyring: Keyring, user_ids: Collection[UserId]
) -> dict[UserId, Sender]:
    """One for each id, in one statement and one for their keys; an id of nobody reads as deleted."""
    senders = {user_id: _render_deleted(user_id) for user_id in user_ids}
    if not senders:
        return senders
    rows = await tx.all(_BY_IDS[tx.dialect], id_parameters(tx.dialect, senders))
    return senders | await _open_rows(tx, keyring, rows)


async def load_portraits(
    tx: Tx, keyring: Keyring, *, viewer: UserId, user_ids: Collection[UserId]
) -> dict[UserId, Portrait]:
    """As `load_senders`; where somebody has a photo, in two statements more and those of the photos."""
    ids = set(user_ids)
    if not ids:
        return {}
    rows = await tx.all(_WITH_PHOTOS[tx.dialect], id_parameters(tx.dialect, ids))
    senders = await _open_rows(tx, keyring, rows)
    owners = {row.id: row for row in rows if row.photo_id is not None and row.id in senders}
    relations = await load_relations(tx, viewer, owners) if owners else {}
    shown = {
        user_id: row.photo_id
        for user_id, row in owners.items()
        if may_see_photo(parse_privacy(row.privacy), relations[user_id])
    }
    photos = await load_photos(tx, keyring, shown.values())
    return {
        user_id: Portrait(
            **(senders.get(user_id) or _render_deleted(user_id)),
            photo=photos.get(shown.get(user_id)),
        )
        for user_id in ids
    }


async def _open_rows(tx: Tx, keyring: Keyring, rows: Sequence[Any]) -> dict[UserId, Sender]:
    """Those whose keys are there."""
    keys = await keyring.load(tx, [user_key(row[0]) for row in rows])
    senders: dict[UserId, Sender] = {}
    for user_id, first_name, last_name, username, revision, *_ in rows:
        key = keys.get(user_key(user_id))
        if key is not None:
            senders[user_id] = Sender(
                id=user_id,
                first_name=open_field(key, "first_name", user_id, first_name, revision) or "",
                last_name=open_field(key, "last_name", user_id, last_name, revision),
                username=username,
                is_deleted=False,
            )
    return senders


def _render_deleted(user_id: UserId) -> Sender:
    return Sender(id=user_id, first_name="", last_name=None, username=None, is_deleted=True)


def _by_ids(dialect: Dialect) -> Select[UserId, bytes, bytes | None, str | None, int]:
    return select(
        UserRow.id, UserRow.first_name, UserRow.last_name, UserRow.username, REVISION
    ).where(is_listed(dialect, UserRow.id), UserRow.deleted_at.is_(None))


_BY_IDS = by_dialect(_by_ids)
_WITH_PHOTOS = by_dialect(
    lambda dialect: _by_ids(dialect).add_columns(UserRow.photo_id, UserRow.privacy)
)
