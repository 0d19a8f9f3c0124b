"""Importing an address book: who of these numbers is here, as far as they let themselves be found."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.features.audit.record import record
from app.features.updates.log import lock_scopes
from app.features.users.address_book import NewName, load_saved, save_names, select_saved
from app.features.users.contacts import Contact, attach_profiles
from app.features.users.find_by_phone import find_by_phone, load_region
from app.features.users.lookups import Budget, spend_lookups
from app.features.users.models import ContactRow
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
from app.kernel.phones import find_phone
from app.kernel.scopes import user_scope
from app.kernel.text import clean_name

MAX_ENTRIES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the device's address book, in any spelling."""

    phone: str
    first_name: str
    last_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """`contacts` in the order of adding; `not_found_count` counts entries: absent, hidden, no number."""

    contacts: list[Contact]
    not_found_count: int
    budget: Budget


async def import_contacts(
    db: Database,
    keyring: Keyring,
    index: BlindIndex,
    *,
    owner: UserId,
    entries: Sequence[Entry],
    lookups_per_day: int,
) -> Imported:
    """Keep as contacts whoever of `entries` is found; of two entries with one number the last wins.

    Numbers without a country code are read as dialled at the owner's home.

    Raises:
        name_invalid, lookups_exhausted, too_many_contacts; nothing was imported then.
    """
    _check_names(entries)
    region = await db.read(lambda tx: load_region(tx, keyring, user_id=owner))
    # Off the loop: measured, 500 numbers take 20 ms.
    phones = await asyncio.to_thread(_parse_phones, entries, region)
    names = {
        phone: NewName(first_name=entry.first_name, last_name=entry.last_name)
        for phone, entry in zip(phones, entries, strict=True)
        if phone is not None
    }

    async def work(tx: Tx) -> Imported:
        log = await lock_scopes(tx, [user_scope(owner)])
        budget = await spend_lookups(
            tx, index, user_id=owner, phones=names, per_day=lookups_per_day
        )
        details = {"entries": len(entries), "new": budget.new}
        record(tx, SecurityEvent("contacts_imported", owner, details=details))
        found = await find_by_phone(tx, index, viewer=owner, phones=names)
        wanted = {user_id: names[phone] for phone, user_id in found.items() if user_id != owner}
        await save_names(tx, keyring, owner=owner, names=wanted)
        if wanted:
            log.append(user_scope(owner), "contacts_changed", data={"user_ids": sorted(wanted)})
        return Imported(
            contacts=await _load(tx, keyring, owner, wanted),
            not_found_count=sum(found.get(phone or "") in {None, owner} for phone in phones),
            budget=budget,
        )

    return await db.write(work)


def _check_names(entries: Sequence[Entry]) -> None:
    for position, entry in enumerate(entries):
        clean_name(entry.first_name, field=f"contacts.{position}.first_name")
        if entry.last_name:
            clean_name(entry.last_name, field=f"contacts.{position}.last_name")


def _parse_phones(entries: Sequence[Entry], region: str | None) -> list[str | None]:
    return [find_phone(entry.phone, region=region) for entry in entries]


async def _load(
    tx: Tx, keyring: Keyring, owner: UserId, wanted: Mapping[UserId, NewName]
) -> list[Contact]:
    statement = (
        select_saved()
        .where(ContactRow.owner_id == owner, ContactRow.user_id.in_(wanted))
        .order_by(ContactRow.id)
    )
    saved = await load_saved(tx, keyring, statement)
    return await attach_profiles(tx, keyring, owner=owner, saved=saved)
