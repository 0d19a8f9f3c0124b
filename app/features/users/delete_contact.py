"""Taking somebody out of my address book."""

from sqlalchemy import delete

from app.features.updates.log import lock_scopes
from app.features.users.errors import ContactNotFound
from app.features.users.models import ContactRow
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope


async def delete_contact(db: Database, *, owner: UserId, user_id: UserId) -> None:
    """Raises:
    contact_not_found
    """

    async def work(tx: Tx) -> None:
        log = await lock_scopes(tx, [user_scope(owner)])
        statement = delete(ContactRow).where(
            ContactRow.owner_id == owner, ContactRow.user_id == user_id
        )
        if not await tx.execute(statement):
            raise ContactNotFound
        log.append(user_scope(owner), "contacts_changed", data={"user_ids": [user_id]})

    await db.write(work)
