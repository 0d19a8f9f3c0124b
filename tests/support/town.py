"""People in a real database, for tests of use cases without a server around them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from sqlalchemy import Select, select

from app.features.chats import models as chat_models
from app.features.updates.read import LoggedUpdate, read_log
from app.features.users.contacts import Contact
from app.features.users.create import create_user
from app.features.users.import_contacts import Entry, Imported, import_contacts
from app.features.users.models import UserRow
from app.features.users.profile import get_profile
from app.features.users.search import Search, search_users
from app.features.users.views import Profile
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring, open_keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope
from tests.support.databases import SetClock

TABLES = chat_models
MUCH = 1_000_000


@dataclass
class Acquaintances:
    """The rule that chats would answer by groups: here everyone has met those in `met`."""

    met: set[UserId] = field(default_factory=set[UserId])

    def select_acquaintances(self, viewer: UserId) -> Select[UserId]:
        return select(UserRow.id).where(UserRow.id.in_(self.met), UserRow.id != viewer)


@dataclass
class Town:
    """Accounts, and the pieces that use cases are called with."""

    db: Database
    clock: SetClock
    keyring: Keyring
    index: BlindIndex
    acquaintances: Acquaintances = field(default_factory=Acquaintances)
    phones: dict[UserId, str] = field(default_factory=dict[UserId, str])
    numbers: "count[int]" = field(default_factory=lambda: count(4_915_110_000_000))

    def next_phone(self) -> str:
        return f"+{next(self.numbers)}"

    async def settle(self, first_name: str = "Anna", last_name: str | None = None) -> UserId:
        """A new account."""
        phone = self.next_phone()

        async def work(tx: Tx) -> UserId:
            return await create_user(
                tx,
                self.keyring,
                self.index,
                phone=phone,
                first_name=first_name,
                last_name=last_name,
            )

        user_id = await self.db.write(work)
        self.phones[user_id] = phone
        return user_id

    async def settle_many(self, number: int, first_name: str = "Anna") -> list[UserId]:
        return [await self.settle(first_name) for _ in range(number)]

    async def dial(
        self, owner: UserId, *phones: str, first_name: str = "Friend", per_day: int = MUCH
    ) -> Imported:
        """Import numbers as contacts."""
        entries = [Entry(phone=phone, first_name=first_name, last_name=None) for phone in phones]
        return await import_contacts(
            self.db, self.keyring, self.index, owner=owner, entries=entries, lookups_per_day=per_day
        )

    async def befriend(self, owner: UserId, *others: UserId) -> list[Contact]:
        imported = await self.dial(owner, *(self.phones[other] for other in others))
        return imported.contacts

    async def find(
        self,
        viewer: UserId,
        query: str,
        *,
        limit: int = 50,
        is_open: bool = False,
        per_day: int = MUCH,
    ) -> list[UserId]:
        search = Search(
            viewer=viewer,
            query=query,
            limit=limit,
            directory="open" if is_open else "known",
            lookups_per_day=per_day,
        )
        found = await search_users(
            self.db, self.keyring, self.index, search=search, rules=[self.acquaintances]
        )
        return [profile.id for profile in found.profiles]

    async def see(self, viewer: UserId, user_id: UserId) -> Profile:
        return await get_profile(self.db, self.keyring, viewer=viewer, user_id=user_id)

    async def updates_of(self, user_id: UserId) -> Sequence[LoggedUpdate]:
        """All updates of this user's own scope."""
        scope = user_scope(user_id)
        return await self.db.read(lambda tx: read_log(tx, {scope: (0, MUCH)}, limit=1000))


async def build_town(db: Database, clock: SetClock) -> Town:
    """An empty one."""
    keyring = await open_keyring(db, b"m" * 32, rounds=1000, personal=True, messages=True)
    return Town(db, clock, keyring, BlindIndex(b"i" * 32))
