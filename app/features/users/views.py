"""People as others see them: privacy and blocks applied at loading, presence added at rendering.

Presence may live in Redis, so nobody asks for it inside a transaction: load, leave, render.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NotRequired, TypedDict

from app.features.files.photos import PhotoView, load_photos
from app.features.users import policy
from app.features.users.people import Person, load_people
from app.features.users.relations import load_relations
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.infra.presence.port import PresenceStore
from app.kernel.clock import format_time
from app.kernel.ids import UserId


class PresenceView(TypedDict):
    """`online` is False and `last_seen_at` absent for whoever may not know."""

    online: bool
    last_seen_at: NotRequired[str]


class UserView(TypedDict):
    """`GET /users/{user_id}`; `is_deleted` is there only when it is true. `photo` is null where it is hidden."""

    id: int
    username: str | None
    first_name: str
    last_name: str | None
    bio: str | None
    photo: PhotoView | None
    phone: NotRequired[str]
    is_contact: bool
    is_blocked: bool
    is_deleted: NotRequired[bool]
    presence: PresenceView


class MeView(TypedDict):
    """`GET /users/me`."""

    id: int
    phone: str | None
    username: str | None
    first_name: str
    last_name: str | None
    bio: str | None
    photo: PhotoView | None
    language: str | None
    created_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A person as one viewer may see them; only whether they are online is still open."""

    id: UserId
    username: str | None
    first_name: str
    last_name: str | None
    bio: str | None
    photo: PhotoView | None
    phone: str | None
    is_contact: bool
    is_blocked: bool
    is_deleted: bool
    sees_presence: bool
    last_seen_at: datetime | None


async def load_profiles(
    tx: Tx, keyring: Keyring, *, viewer: UserId, user_ids: Collection[UserId]
) -> dict[UserId, Profile]:
    """Those of `user_ids` that are or were accounts, in at most four statements, and those of their photos."""
    people = await load_people(tx, keyring, user_ids)
    relations = await load_relations(tx, viewer, people)
    shown = {
        user_id: person.photo_id
        for user_id, person in people.items()
        if policy.may_see_photo(person.privacy, relations[user_id])
    }
    photos = await load_photos(tx, keyring, shown.values())
    return {
        user_id: _apply_privacy(person, relations[user_id], photos.get(shown.get(user_id)))
        for user_id, person in people.items()
    }


async def render_profiles(presence: PresenceStore, profiles: Iterable[Profile]) -> list[UserView]:
    """In the same order; asks the presence store once, about those the viewer may know of."""
    profiles = list(profiles)
    asked = sorted({profile.id for profile in profiles if profile.sees_presence})
    online = await presence.online(asked) if asked else set[UserId]()
    return [render_profile(profile, is_online=profile.id in online) for profile in profiles]


def render_profile(profile: Profile, *, is_online: bool) -> UserView:
    """`is_online` counts only where the viewer may know."""
    presence = PresenceView(online=profile.sees_presence and is_online)
    if profile.sees_presence and profile.last_seen_at is not None:
        presence["last_seen_at"] = format_time(profile.last_seen_at)
    view = UserView(
        id=profile.id,
        username=profile.username,
        first_name=profile.first_name,
        last_name=profile.last_name,
        bio=profile.bio,
        photo=profile.photo,
        is_contact=profile.is_contact,
        is_blocked=profile.is_blocked,
        presence=presence,
    )
    if profile.is_deleted:
        view["is_deleted"] = True
    if profile.phone is not None:
        view["phone"] = profile.phone
    return view


def render_me(person: Person, photo: PhotoView | None) -> MeView:
    """For the person alone."""
    return MeView(
        id=person.id,
        phone=person.phone,
        username=person.username,
        first_name=person.first_name,
        last_name=person.last_name,
        bio=person.bio,
        photo=photo,
        language=person.language,
        created_at=format_time(person.created_at),
    )


def _apply_privacy(person: Person, relation: policy.Relation, photo: PhotoView | None) -> Profile:
    """`photo`: as far as the viewer may see it."""
    privacy = person.privacy
    return Profile(
        id=person.id,
        username=person.username,
        first_name=person.first_name,
        last_name=person.last_name,
        bio=person.bio,
        photo=photo,
        phone=person.phone if policy.may_see_phone(privacy, relation) else None,
        is_contact=relation.is_my_contact,
        is_blocked=relation.is_blocked_by_me,
        is_deleted=person.is_deleted,
        sees_presence=not person.is_deleted and policy.may_see_presence(privacy, relation),
        last_seen_at=person.last_seen_at,
    )
