"""Contacts as their owner sees them: a profile, and the name under which the owner keeps it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from app.features.users.address_book import SavedContact
from app.features.users.views import Profile, UserView, load_profiles, render_profiles
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.infra.presence.port import PresenceStore
from app.kernel.clock import format_time
from app.kernel.ids import UserId


class SavedNameView(TypedDict):
    """The owner's own name for a contact."""

    first_name: str
    last_name: str | None
    added_at: str


class ContactView(UserView):
    """An item of `GET /users/contacts`: the profile, and under `contact` what the owner saved."""

    contact: SavedNameView


@dataclass(frozen=True, slots=True)
class Contact:
    """A row of the address book with the person behind it."""

    saved: SavedContact
    profile: Profile


async def attach_profiles(
    tx: Tx, keyring: Keyring, *, owner: UserId, saved: Sequence[SavedContact]
) -> list[Contact]:
    """In the same order."""
    ids = [contact.user_id for contact in saved]
    profiles = await load_profiles(tx, keyring, viewer=owner, user_ids=ids)
    return [Contact(contact, profiles[contact.user_id]) for contact in saved]


async def render_contacts(
    presence: PresenceStore, contacts: Iterable[Contact]
) -> list[ContactView]:
    """In the same order."""
    contacts = list(contacts)
    views = await render_profiles(presence, [contact.profile for contact in contacts])
    return [
        ContactView(**view, contact=render_saved_name(contact.saved))
        for contact, view in zip(contacts, views, strict=True)
    ]


def render_saved_name(saved: SavedContact) -> SavedNameView:
    return SavedNameView(
        first_name=saved.first_name,
        last_name=saved.last_name,
        added_at=format_time(saved.added_at),
    )
