"""One person as the caller may see them."""

from app.features.users.errors import UserNotFound
from app.features.users.views import Profile, load_profiles
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId


async def get_profile(
    db: Database, keyring: Keyring, *, viewer: UserId, user_id: UserId
) -> Profile:
    """Deleted accounts are shown as deleted, as they still stand beside what they wrote.

    Raises:
        user_not_found
    """

    async def work(tx: Tx) -> Profile:
        profiles = await load_profiles(tx, keyring, viewer=viewer, user_ids=[user_id])
        if user_id not in profiles:
            raise UserNotFound
        return profiles[user_id]

    return await db.read(work)
