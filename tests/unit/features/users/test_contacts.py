"""Contacts: imported by number, capped, counted against enumeration."""

import asyncio

import pytest
from sqlalchemy import insert, select

from app.features.users import address_book
from app.features.users.delete_contact import delete_contact
from app.features.users.errors import ContactNotFound, LookupsExhausted, TooManyContacts
from app.features.users.import_contacts import Entry, Imported, import_contacts
from app.features.users.list_contacts import list_contacts
from app.features.users.lookups import forget_spent, leave_spent
from app.features.users.models import ContactRow, PhoneLookupRow, SpentLookupsRow, UserRow
from app.features.users.policy import Audience
from app.features.users.privacy import update_privacy
from app.infra.database.tx import Tx
from app.kernel.ids import UserId
from app.kernel.text import NameInvalid
from tests.support.town import MUCH, Town

pytestmark = pytest.mark.anyio


def ids(imported: Imported) -> list[UserId]:
    return [contact.profile.id for contact in imported.contacts]


async def list_all(town: Town, owner: UserId, *, limit: int = 50) -> list[UserId]:
    found: list[UserId] = []
    after: int | None = 0
    while after is not None:
        page, after = await list_contacts(
            town.db, town.keyring, owner=owner, after=after, limit=limit
        )
        found += [contact.profile.id for contact in page]
    return found


async def test_a_number_is_found_in_any_spelling_and_as_dialled_at_home(town: Town) -> None:
    anna, bruno, clara = await town.settle_many(3)
    spelled = town.phones[bruno].replace("+49", "0049 (", 1)[:9] + ") " + town.phones[bruno][6:]
    at_home = town.phones[clara].replace("+49", "0", 1)
    imported = await town.dial(anna, spelled, at_home)
    assert sorted(ids(imported)) == sorted([bruno, clara])
    assert imported.not_found_count == 0


async def test_absent_hidden_unreadable_and_my_own_numbers_count_as_not_found(town: Town) -> None:
    anna, hidden, found = await town.settle_many(3)
    await update_privacy(town.db, user_id=hidden, changes={"find_by_phone": Audience.NOBODY})
    imported = await town.dial(
        anna,
        town.next_phone(),
        town.phones[hidden],
        "no number",
        town.phones[anna],
        town.phones[found],
    )
    assert (ids(imported), imported.not_found_count) == ([found], 4)


async def test_who_lets_contacts_find_them_is_found_by_those_they_keep(town: Town) -> None:
    anna, bruno, stranger = await town.settle_many(3)
    await town.befriend(anna, bruno)
    await update_privacy(town.db, user_id=anna, changes={"find_by_phone": Audience.CONTACTS})
    assert ids(await town.dial(bruno, town.phones[anna])) == [anna]
    assert ids(await town.dial(stranger, town.phones[anna])) == []


async def test_the_same_number_twice_is_one_contact_under_the_last_name(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    entries = [
        Entry(phone=town.phones[bruno], first_name="First", last_name="Name"),
        Entry(phone=f" {town.phones[bruno]} ", first_name="Second", last_name=None),
    ]
    imported = await import_contacts(
        town.db, town.keyring, town.index, owner=anna, entries=entries, lookups_per_day=MUCH
    )
    [contact] = imported.contacts
    assert (contact.saved.first_name, contact.saved.last_name) == ("Second", None)
    assert imported.not_found_count == 0


async def test_importing_again_renames_and_keeps_the_place(town: Town) -> None:
    anna, bruno, clara = await town.settle_many(3)
    await town.befriend(anna, bruno, clara)
    await town.dial(anna, town.phones[bruno], first_name="New name")
    page, _ = await list_contacts(town.db, town.keyring, owner=anna, after=0, limit=50)
    assert {contact.profile.id: contact.saved.first_name for contact in page} == {
        bruno: "New name",
        clara: "Friend",
    }
    assert len(await list_all(town, anna)) == 2


async def test_a_contact_added_during_a_walk_neither_hides_nor_repeats_others(town: Town) -> None:
    anna, *others = await town.settle_many(6)
    await town.befriend(anna, *others[:4])
    first, after = await list_contacts(town.db, town.keyring, owner=anna, after=0, limit=2)
    await town.befriend(anna, others[4])
    await delete_contact(town.db, owner=anna, user_id=first[0].profile.id)
    rest: list[UserId] = []
    while after is not None:
        page, after = await list_contacts(town.db, town.keyring, owner=anna, after=after, limit=2)
        rest += [contact.profile.id for contact in page]
    seen = [contact.profile.id for contact in first] + rest
    assert sorted(seen) == sorted(others)


async def test_a_contact_is_deleted_once_and_my_devices_are_told(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    await town.befriend(anna, bruno)
    await delete_contact(town.db, owner=anna, user_id=bruno)
    with pytest.raises(ContactNotFound):
        await delete_contact(town.db, owner=anna, user_id=bruno)
    assert await list_all(town, anna) == []
    changes = await town.updates_of(anna)
    assert [update.type for update in changes] == ["contacts_changed"] * 2
    assert await town.updates_of(bruno) == []


async def test_a_name_that_cannot_stand_stops_the_whole_import(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    entries = [
        Entry(phone=town.phones[bruno], first_name="Bruno", last_name=None),
        Entry(phone=town.next_phone(), first_name="\u202e", last_name=None),
    ]
    with pytest.raises(NameInvalid) as caught:
        await import_contacts(
            town.db, town.keyring, town.index, owner=anna, entries=entries, lookups_per_day=MUCH
        )
    assert caught.value.errors[0].field == "contacts.1.first_name"
    assert await list_all(town, anna) == []


async def test_an_address_book_has_an_end(town: Town) -> None:
    anna, bruno, clara = await town.settle_many(3)

    async def fill(tx: Tx) -> None:
        row = {"privacy": {}, "created_at": tx.now, "first_name": b""}
        strangers = [{"id": 10**9 + n, **row} for n in range(address_book.MAX_CONTACTS - 1)]
        await tx.execute(insert(UserRow), strangers)
        await tx.execute(
            insert(ContactRow),
            [
                {"owner_id": anna, "user_id": it["id"], "first_name": b"", "created_at": tx.now}
                for it in strangers
            ],
        )

    await town.db.write(fill)
    await town.befriend(anna, bruno)
    with pytest.raises(TooManyContacts):
        await town.befriend(anna, clara)
    assert await town.befriend(anna, bruno)


async def test_a_day_has_so_many_new_numbers_by_import_and_search_together(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    numbers = [town.next_phone() for _ in range(6)]
    imported = await town.dial(anna, *numbers[:3], per_day=5)
    assert (imported.budget.per_day, imported.budget.left) == (5, 2)
    assert await town.find(anna, numbers[3], per_day=5) == []
    with pytest.raises(LookupsExhausted) as caught:
        await town.dial(anna, numbers[4], town.phones[bruno], per_day=5)
    assert 0 < (caught.value.retry_after or 0) <= 86_400
    assert caught.value.headers["RateLimit"].startswith('"lookups";r=1;t=')
    assert await list_all(town, anna) == []  # nothing of it was imported
    assert await town.find(anna, numbers[4], per_day=5) == []
    with pytest.raises(LookupsExhausted):
        await town.find(anna, town.phones[bruno], per_day=5)


async def test_numbers_asked_about_before_cost_nothing_more(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    number = town.next_phone()
    for _ in range(3):
        await town.dial(anna, number, town.phones[bruno], per_day=2)
        assert await town.find(anna, number, per_day=2) == []


async def test_a_new_day_has_a_new_budget_in_which_contacts_are_not_news(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    await town.dial(anna, town.phones[bruno], town.next_phone(), per_day=2)
    town.clock.advance(days=1)
    await town.dial(anna, town.phones[bruno], town.next_phone(), town.next_phone(), per_day=2)
    days = await town.db.read(lambda tx: tx.scalars(select(PhoneLookupRow.day)))
    assert len(days) == 2
    assert len(set(days)) == 1  # yesterday's are gone


async def test_what_deleted_accounts_spent_is_forgotten_with_the_day(town: Town) -> None:
    anna = await town.settle()
    await town.dial(anna, *(town.next_phone() for _ in range(3)), per_day=5)

    async def leave(tx: Tx) -> None:
        [index] = await tx.scalars(select(UserRow.phone_index).where(UserRow.id == anna))
        assert index is not None
        await leave_spent(tx, user_id=anna, phone_index=index)

    async def find_spent() -> list[int]:
        await forget_spent(town.db)
        return list(await town.db.read(lambda tx: tx.scalars(select(SpentLookupsRow.spent))))

    await town.db.write(leave)
    assert await find_spent() == [3]
    town.clock.advance(days=1)
    assert await find_spent() == []
    await town.dial(anna, *(town.next_phone() for _ in range(5)), per_day=5)


async def test_the_budget_is_each_persons_own(town: Town) -> None:
    anna, bruno = await town.settle_many(2)
    number = town.next_phone()
    await town.dial(anna, number, per_day=1)
    await town.dial(bruno, number, per_day=1)


async def test_asking_in_parallel_does_not_stretch_the_budget(town: Town) -> None:
    anna = await town.settle()
    numbers = [town.next_phone() for _ in range(10)]
    outcomes = await asyncio.gather(
        *(town.find(anna, number, per_day=3) for number in numbers), return_exceptions=True
    )
    assert sum(outcome == [] for outcome in outcomes) == 3
    assert sum(isinstance(outcome, LookupsExhausted) for outcome in outcomes) == 7
