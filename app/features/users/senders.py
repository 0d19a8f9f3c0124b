"""People as they stand beside what they wrote: the same for every viewer, so nothing of privacy is in it."""

from collections.abc import Collection
from typing import TypedDict

from sqlalchemy import Select, select

from app.features.users.models import UserRow
from app.features.users.people import REVISION, open_field
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


async def load_senders(
    tx: Tx, keyring: Keyring, user_ids: Collection[UserId]
) -> dict[UserId, Sender]:
    """One for each id, in one statement and one for their keys; an id of nobody reads as deleted."""
    senders = {user_id: _render_deleted(user_id) for user_id in user_ids}
    if not senders:
        return senders
    rows = await tx.all(_BY_IDS[tx.dialect], id_parameters(tx.dialect, senders))
    keys = await keyring.load(tx, [user_key(row[0]) for row in rows])
    for user_id, first_name, last_name, username, revision in rows:
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
