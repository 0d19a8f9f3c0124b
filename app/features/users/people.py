"""Sealing and opening the personal fields of `users`: the one place of this slice that knows where each is bound to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import select

from app.features.users.models import UserRow
from app.features.users.policy import Privacy, parse_privacy
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import Keyring, user_key
from app.infra.cipher.revisions import raise_revision, revision_of
from app.infra.database.tx import Tx
from app.kernel.ids import FileId, UserId

SealedColumn = Literal["phone", "first_name", "last_name", "bio"]
SEALED: tuple[SealedColumn, ...] = ("phone", "first_name", "last_name", "bio")
REVISION = revision_of(UserRow, UserRow.id).label("revision")

_IDS_A_STATEMENT = 10_000
_COLUMNS = (
    UserRow.id,
    UserRow.phone,
    UserRow.username,
    UserRow.first_name,
    UserRow.last_name,
    UserRow.bio,
    UserRow.language,
    UserRow.privacy,
    UserRow.photo_id,
    UserRow.created_at,
    UserRow.last_seen_at,
    UserRow.deleted_at,
    REVISION,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """An account, opened: for rendering through privacy only. A deleted one has lost all that is personal."""

    id: UserId
    phone: str | None
    username: str | None
    first_name: str
    last_name: str | None
    bio: str | None
    language: str | None
    privacy: Privacy
    photo_id: FileId | None
    created_at: datetime
    last_seen_at: datetime | None
    is_deleted: bool


async def load_people(
    tx: Tx, keyring: Keyring, user_ids: Collection[UserId]
) -> dict[UserId, Person]:
    """Those of `user_ids` that are or were accounts, in one statement and one for their keys."""
    ids = sorted(set(user_ids))
    people: dict[UserId, Person] = {}
    for start in range(0, len(ids), _IDS_A_STATEMENT):
        chunk = ids[start : start + _IDS_A_STATEMENT]
        rows = await tx.all(select(*_COLUMNS).where(UserRow.id.in_(chunk)))
        living = [user_key(row.id) for row in rows if row.deleted_at is None]
        keys = await keyring.load(tx, living)
        for row in rows:
            key = keys.get(user_key(row.id))
            is_deleted = row.deleted_at is not None or key is None
            people[row.id] = Person(
                id=row.id,
                phone=open_field(key, "phone", row.id, row.phone, row.revision),
                username=None if is_deleted else row.username,
                first_name=open_field(key, "first_name", row.id, row.first_name, row.revision)
                or "",
                last_name=open_field(key, "last_name", row.id, row.last_name, row.revision),
                bio=open_field(key, "bio", row.id, row.bio, row.revision),
                language=None if is_deleted else row.language,
                privacy=parse_privacy(row.privacy),
                photo_id=None if is_deleted else row.photo_id,
                created_at=row.created_at,
                last_seen_at=None if is_deleted else row.last_seen_at,
                is_deleted=is_deleted,
            )
    return people


async def has_phone(tx: Tx, keyring: Keyring, user_id: UserId, phone: str) -> bool:
    """Whether the account's sealed number says what its blind index did. The index alone is not to be believed:
    whoever can write to the database gives it to another row, and would sign in there with a phone of their own.
    """
    person = (await load_people(tx, keyring, [user_id]))[user_id]
    # Without its key there is nothing of the account to be had.
    if person.is_deleted or person.phone == phone:
        return True
    keyring.report(UserRow.__tablename__, "phone_index", user_id)
    return False


def open_field(
    key: DataKey | None,
    column: SealedColumn,
    user_id: UserId,
    value: bytes | None,
    revision: int,
) -> str | None:
    """None where the key was destroyed, what it sealed is gone; and where the value does not open."""
    if key is None:
        return None
    return key.find_text(
        value, table=UserRow.__tablename__, column=column, row_id=user_id, revision=revision
    )


def seal_fields(
    keyring: Keyring,
    key: DataKey,
    user_id: UserId,
    texts: Mapping[SealedColumn, str | None],
    *,
    revision: int = 0,
) -> dict[str, bytes | None]:
    """Column -> value to store."""
    return {
        column: key.seal_text(
            text,
            table=UserRow.__tablename__,
            column=column,
            row_id=user_id,
            revision=revision,
            encrypt=keyring.personal,
        )
        for column, text in texts.items()
    }


async def reseal_fields(
    tx: Tx, keyring: Keyring, person: Person, changed: Mapping[SealedColumn, str | None]
) -> dict[str, bytes | None]:
    """As `seal_fields` under the row's next revision, with the fields that stay, so that all have the
    same; one that did not open is left as it is. The caller has locked the person's scope.
    """
    texts: dict[SealedColumn, str | None] = {
        "phone": person.phone,
        "first_name": person.first_name or None,
        "last_name": person.last_name,
        "bio": person.bio,
    }
    for column in SEALED:
        if texts[column] is None:
            del texts[column]
    key = await keyring.require(tx, user_key(person.id))
    revision = await raise_revision(tx, UserRow, person.id)
    return seal_fields(keyring, key, person.id, {**texts, **changed}, revision=revision)
