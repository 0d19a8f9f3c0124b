"""Who has these numbers, as far as they let the viewer know."""

from collections.abc import Collection

from sqlalchemy import select

from app.features.users.models import UserRow
from app.features.users.people import load_people
from app.features.users.policy import may_find_by_phone, parse_privacy
from app.features.users.relations import load_relations
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.phones import find_region


async def find_by_phone(
    tx: Tx, index: BlindIndex, *, viewer: UserId, phones: Collection[str]
) -> dict[str, UserId]:
    """Phone (E.164) -> user. The same statements run whether a number is hidden, absent or found."""
    phones_by_digest = {digest: phone for phone in phones for digest in index.phones(phone)}
    statement = select(UserRow.id, UserRow.phone_index, UserRow.privacy).where(
        UserRow.phone_index.in_(phones_by_digest), UserRow.deleted_at.is_(None)
    )
    rows = await tx.all(statement)
    relations = await load_relations(tx, viewer, [viewer, *(row.id for row in rows)])
    return {
        phones_by_digest[row.phone_index]: row.id
        for row in rows
        if row.phone_index is not None
        and may_find_by_phone(parse_privacy(row.privacy), relations[row.id])
    }


async def load_region(tx: Tx, keyring: Keyring, *, user_id: UserId) -> str | None:
    """Where this person dials without a country code."""
    people = await load_people(tx, keyring, [user_id])
    person = people.get(user_id)
    return find_region(person.phone) if person and person.phone else None
