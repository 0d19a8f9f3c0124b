"""What the slice `account` asks of every slice that keeps something about a person: to erase and to export it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.infra.database.database import LONG_SECONDS, Database
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaver:
    """Whose account is deleted. `phone_index` is known in the transaction of the deletion alone."""

    user_id: UserId
    keep_messages: bool
    phone_index: bytes | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A member of the export. Its items are read page by page; one that is not a list has one item."""

    name: str
    items: AsyncIterator[object]
    is_list: bool = True


class PersonalData(Protocol):
    """All that one slice keeps about a person."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """In the transaction that deletes the account, and once more at the end: what is the person's
        alone and small. The person's scope is locked; safe to repeat.
        """
        ...

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """Afterwards, in small transactions of its own: what others see too, or what may be much.

        It may be cut off at any moment and is begun again until it ends; two workers may do it at once.
        """
        ...

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """What the person may take along; nothing of others beyond what they see anyway."""
        ...


Page = tuple[Sequence[object], int | None]
"""Items, and the key behind which the next page begins; None: it was the last."""


def one_item(db: Database, read: Callable[[Tx], Awaitable[object]]) -> AsyncIterator[object]:
    """The items of a section that is not a list."""

    async def read_page(tx: Tx, after: int) -> Page:
        del after
        return [await read(tx)], None

    return in_pages(db, read_page)


async def in_pages(
    db: Database, read_page: Callable[[Tx, int], Awaitable[Page]]
) -> AsyncIterator[object]:
    """All items, each page read in a transaction of its own and none kept: memory stays constant."""
    after: int | None = 0
    while after is not None:
        items, after = await db.read(
            lambda tx, after=after: read_page(tx, after), timeout_seconds=LONG_SECONDS
        )
        for item in items:
            yield item
