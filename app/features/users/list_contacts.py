"""My contacts in the order of adding: names are sealed, so clients sort them."""

from app.features.users.address_book import load_saved, select_saved
from app.features.users.contacts import Contact, attach_profiles
from app.features.users.models import ContactRow
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId


async def list_contacts(
    db: Database, keyring: Keyring, *, owner: UserId, after: int, limit: int
) -> tuple[list[Contact], int | None]:
    """The contacts behind the one with id `after`.

    Returns:
        At most `limit` contacts, and the `after` of the next page if there is one.
    """

    async def work(tx: Tx) -> tuple[list[Contact], int | None]:
        statement = (
            select_saved()
            .where(ContactRow.owner_id == owner, ContactRow.id > after)
            .order_by(ContactRow.id)
            .limit(limit + 1)
        )
        saved = await load_saved(tx, keyring, statement)
        page = saved[:limit]
        contacts = await attach_profiles(tx, keyring, owner=owner, saved=page)
        return contacts, page[-1].id if len(saved) > limit else None

    return await db.read(work)
