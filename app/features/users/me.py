"""My own account, as only I see it."""

from collections.abc import Collection, Mapping

from app.features.files.photos import load_photos
from app.features.users.errors import UserNotFound
from app.features.users.people import Person, load_people
from app.features.users.views import MeView, render_me
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId


async def get_me(db: Database, keyring: Keyring, *, user_id: UserId) -> MeView:
    """Raises:
    user_not_found: the account was deleted a moment ago.
    """

    async def work(tx: Tx) -> MeView:
        return await load_me(tx, keyring, user_id=user_id)

    return await db.read(work)


async def load_me(tx: Tx, keyring: Keyring, *, user_id: UserId) -> MeView:
    """As `get_me`, in the caller's transaction; also what signing in answers."""
    people = await load_people(tx, keyring, [user_id])
    if user_id not in people:
        raise UserNotFound
    return (await _render(tx, keyring, people))[user_id]


async def load_many_me(
    tx: Tx, keyring: Keyring, user_ids: Collection[UserId]
) -> dict[UserId, MeView]:
    """Each for its own person's eyes only."""
    return await _render(tx, keyring, await load_people(tx, keyring, user_ids))


async def _render(
    tx: Tx, keyring: Keyring, people: Mapping[UserId, Person]
) -> dict[UserId, MeView]:
    photos = await load_photos(tx, keyring, [person.photo_id for person in people.values()])
    return {
        user_id: render_me(person, photos.get(person.photo_id))
        for user_id, person in people.items()
    }
