"""People as they stand beside what they wrote: the same for every viewer, so nothing of privacy is in it."""

from collections.abc import Collection
from typing import TypedDict

from sqlalchemy import select

from app.features.users.models import UserRow
from app.features.users.people import open_field
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.database.tx import Tx
from app.kernel.ids import UserId

_IDS_A_STATEMENT = 10_000


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
    ids = sorted(set(user_ids))
    senders = {user_id: _render_deleted(user_id) for user_id in ids}
    for start in range(0, len(ids), _IDS_A_STATEMENT):
        chunk = ids[start : start + _IDS_A_STATEMENT]
        statement = select(
            UserRow.id, UserRow.first_name, UserRow.last_name, UserRow.username
        ).where(UserRow.id.in_(chunk), UserRow.deleted_at.is_(None))
        rows = await tx.all(statement)
        keys = await keyring.load(tx, [user_key(row.id) for row in rows])
        for row in rows:
            key = keys.get(user_key(row.id))
            if key is not None:
                senders[row.id] = Sender(
                    id=row.id,
                    first_name=open_field(key, "first_name", row.id, row.first_name) or "",
                    last_name=open_field(key, "last_name", row.id, row.last_name),
                    username=row.username,
                    is_deleted=False,
                )
    return senders


def _render_deleted(user_id: UserId) -> Sender:
    return Sender(id=user_id, first_name="", last_name=None, username=None, is_deleted=True)
