"""Rows of `contacts`: sealed under the owner's key, opened for nobody else."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, bindparam, func, insert, select, update

from app.features.users.errors import TooManyContacts
from app.features.users.models import ContactRow
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.cipher.revisions import raise_revisions, revision_of
from app.infra.database.tx import Tx
from app.kernel.ids import UserId

MAX_CONTACTS = 5_000

_SAVE_NAME = (
    update(ContactRow)
    .where(ContactRow.id == bindparam("contact_id"))
    .values(first_name=bindparam("new_first_name"), last_name=bindparam("new_last_name"))
)

_REVISION = revision_of(ContactRow, ContactRow.id).label("revision")

ContactSelect = Select[int, UserId, UserId, bytes, bytes | None, datetime, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewName:
    """Under which name the owner wants to keep somebody."""

    first_name: str
    last_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedContact:
    """An opened row. `id` grows in the order of adding."""

    id: int
    owner_id: UserId
    user_id: UserId
    first_name: str
    last_name: str | None
    added_at: datetime


def select_saved() -> ContactSelect:
    """What `load_saved` needs; callers add the condition and the order."""
    return select(
        ContactRow.id,
        ContactRow.owner_id,
        ContactRow.user_id,
        ContactRow.first_name,
        ContactRow.last_name,
        ContactRow.created_at,
        _REVISION,
    )


async def load_saved(tx: Tx, keyring: Keyring, statement: ContactSelect) -> list[SavedContact]:
    """The rows of `statement`, opened, in its order; rows of destroyed owners are left out."""
    rows = await tx.all(statement)
    keys = await keyring.load(tx, {user_key(row.owner_id) for row in rows})
    saved: list[SavedContact] = []
    for row in rows:
        key = keys.get(user_key(row.owner_id))
        if key is not None:
            saved.append(
                SavedContact(
                    id=row.id,
                    owner_id=row.owner_id,
                    user_id=row.user_id,
                    first_name=_open(key, "first_name", row.id, row.first_name, row.revision) or "",
                    last_name=_open(key, "last_name", row.id, row.last_name, row.revision),
                    added_at=row.created_at,
                )
            )
    return saved


async def save_names(
    tx: Tx, keyring: Keyring, *, owner: UserId, names: Mapping[UserId, NewName]
) -> None:
    """Add these users, or rename those who are there. The caller has locked the owner's scope.

    Raises:
        too_many_contacts
    """
    if not names:
        return
    statement = select(ContactRow.user_id, ContactRow.id, _REVISION).where(
        ContactRow.owner_id == owner, ContactRow.user_id.in_(names)
    )
    existing = {row.user_id: (row.id, row.revision + 1) for row in await tx.all(statement)}
    new = [user_id for user_id in names if user_id not in existing]
    await _require_room(tx, owner, len(new))
    key = await keyring.require(tx, user_key(owner))
    seal = _Sealer(key, encrypt=keyring.personal)
    if existing:
        changes = [
            {
                "contact_id": contact_id,
                "new_first_name": seal(
                    "first_name", contact_id, names[user_id].first_name, revision
                ),
                "new_last_name": seal("last_name", contact_id, names[user_id].last_name, revision),
            }
            for user_id, (contact_id, revision) in existing.items()
        ]
        await raise_revisions(tx, ContactRow, [contact_id for contact_id, _ in existing.values()])
        await tx.execute(_SAVE_NAME, changes)
    if new:
        ids = await tx.reserve_ids(ContactRow, len(new))
        rows = [
            {
                "id": contact_id,
                "owner_id": owner,
                "user_id": user_id,
                "first_name": seal("first_name", contact_id, names[user_id].first_name),
                "last_name": seal("last_name", contact_id, names[user_id].last_name),
                "created_at": tx.now,
            }
            for user_id, contact_id in zip(new, ids, strict=True)
        ]
        await tx.execute(insert(ContactRow), rows)


async def _require_room(tx: Tx, owner: UserId, count: int) -> None:
    if not count:
        return
    statement = select(func.count()).select_from(ContactRow).where(ContactRow.owner_id == owner)
    if (await tx.scalar(statement) or 0) + count > MAX_CONTACTS:
        raise TooManyContacts(f"At most {MAX_CONTACTS} contacts")


class _Sealer:
    """Binds a saved name to its row under the owner's key."""

    def __init__(self, key: DataKey, *, encrypt: bool) -> None:
        self._key = key
        self._encrypt = encrypt

    def __call__(
        self, column: str, contact_id: int, text: str | None, revision: int = 0
    ) -> bytes | None:
        return self._key.seal_text(
            text,
            table=ContactRow.__tablename__,
            column=column,
            row_id=contact_id,
            revision=revision,
            encrypt=self._encrypt,
        )


def _open(
    key: DataKey, column: str, contact_id: int, value: bytes | None, revision: int
) -> str | None:
    return key.find_text(
        value,
        table=ContactRow.__tablename__,
        column=column,
        row_id=contact_id,
        revision=revision,
    )
