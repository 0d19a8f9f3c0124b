"""Who may see, find, add and call whom: pure rules over a person's privacy and what two people are to each other.

Defaults are Telegram's: contacts see the phone, everyone the rest.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import assert_never, cast


class Audience(StrEnum):
    """Whom a person lets do something. `CONTACTS`: those whom that person keeps as contacts."""

    EVERYONE = "everyone"
    CONTACTS = "contacts"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """A person's choices; the defaults hold for whoever has chosen nothing."""

    phone: Audience = Audience.CONTACTS
    last_seen: Audience = Audience.EVERYONE
    photo: Audience = Audience.EVERYONE
    find_by_phone: Audience = Audience.EVERYONE
    add_to_groups: Audience = Audience.EVERYONE
    call: Audience = Audience.EVERYONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """What a viewer and a person are to each other."""

    is_self: bool = False
    # The person keeps the viewer as a contact: what `CONTACTS` asks.
    is_their_contact: bool = False
    # The viewer keeps the person as a contact: opens nothing, or importing a number would.
    is_my_contact: bool = False
    # The person has blocked the viewer.
    is_blocked_by_them: bool = False
    # The viewer has blocked the person.
    is_blocked_by_me: bool = False


MYSELF = Relation(is_self=True)


def parse_privacy(stored: object) -> Privacy:
    """What the `privacy` column holds: only the choices that were made."""
    choices = cast("Mapping[str, str]", stored)
    known = {field.name for field in fields(Privacy)}
    return Privacy(**{name: Audience(value) for name, value in choices.items() if name in known})


def render_privacy(privacy: Privacy) -> dict[str, object]:
    """As on the wire and, in full, in the column."""
    return {name: str(audience) for name, audience in asdict(privacy).items()}


def may_see_phone(privacy: Privacy, relation: Relation) -> bool:
    return _may_see(privacy.phone, relation)


def may_see_presence(privacy: Privacy, relation: Relation) -> bool:
    """Online or not, and when last."""
    return _may_see(privacy.last_seen, relation)


def may_see_photo(privacy: Privacy, relation: Relation) -> bool:
    return _may_see(privacy.photo, relation)


def may_find_by_phone(privacy: Privacy, relation: Relation) -> bool:
    """Blocks do not count: else looking a known number up again would tell that one was blocked."""
    return relation.is_self or _admits(privacy.find_by_phone, relation)


def may_add_to_groups(privacy: Privacy, relation: Relation) -> bool:
    """Whether the viewer may add the person."""
    return _may_see(privacy.add_to_groups, relation)


def may_call(privacy: Privacy, relation: Relation) -> bool:
    """Whether the viewer may call the person; neither may have blocked the other."""
    if relation.is_self or relation.is_blocked_by_me or relation.is_blocked_by_them:
        return False
    return _admits(privacy.call, relation)


def _may_see(audience: Audience, relation: Relation) -> bool:
    """A blocked viewer is nobody."""
    if relation.is_self:
        return True
    return not relation.is_blocked_by_them and _admits(audience, relation)


def _admits(audience: Audience, relation: Relation) -> bool:
    match audience:
        case Audience.EVERYONE:
            return True
        case Audience.CONTACTS:
            return relation.is_their_contact
        case Audience.NOBODY:
            return False
        case _:
            assert_never(audience)
