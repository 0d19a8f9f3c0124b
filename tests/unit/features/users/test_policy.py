"""Who may see, find, add and call whom, as tables."""

from dataclasses import fields, replace

import pytest

from app.features.users import policy
from app.features.users.policy import MYSELF, Audience, Privacy, Relation

EVERYONE, CONTACTS, NOBODY = Audience

STRANGER = Relation()
THEIR_CONTACT = Relation(is_their_contact=True)
KEEPS_THEM = Relation(is_my_contact=True)
BLOCKED = Relation(is_their_contact=True, is_blocked_by_them=True)
BLOCKER = Relation(is_their_contact=True, is_blocked_by_me=True)

#                everyone, contacts, nobody
SEES = {
    MYSELF: (True, True, True),
    STRANGER: (True, False, False),
    THEIR_CONTACT: (True, True, False),
    KEEPS_THEM: (True, False, False),
    BLOCKED: (False, False, False),
    BLOCKER: (True, True, False),
}
FINDS = {**SEES, BLOCKED: (True, True, False)}
CALLS = {**SEES, MYSELF: (False, False, False), BLOCKER: (False, False, False)}

VERBS = {
    "phone": (policy.may_see_phone, SEES),
    "last_seen": (policy.may_see_presence, SEES),
    "photo": (policy.may_see_photo, SEES),
    "find_by_phone": (policy.may_find_by_phone, FINDS),
    "add_to_groups": (policy.may_add_to_groups, SEES),
    "call": (policy.may_call, CALLS),
}


def test_every_choice_has_its_table() -> None:
    assert VERBS.keys() == {field.name for field in fields(Privacy)}


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("relation", SEES, ids=str)
def test_an_audience_admits_whom_its_table_says(name: str, relation: Relation) -> None:
    may, table = VERBS[name]
    closed = Privacy(**{field.name: NOBODY for field in fields(Privacy)})
    answers = tuple(
        may(replace(closed, **{name: audience}), relation)
        for audience in (EVERYONE, CONTACTS, NOBODY)
    )
    assert answers == table[relation]


def test_at_first_contacts_see_the_phone_and_everyone_the_rest() -> None:
    assert policy.render_privacy(Privacy()) == {
        "phone": "contacts",
        "last_seen": "everyone",
        "photo": "everyone",
        "find_by_phone": "everyone",
        "add_to_groups": "everyone",
        "call": "everyone",
    }


def test_what_is_stored_is_read_back() -> None:
    chosen = Privacy(phone=NOBODY, call=CONTACTS)
    assert policy.parse_privacy(policy.render_privacy(chosen)) == chosen
    assert policy.parse_privacy({}) == Privacy()
    assert policy.parse_privacy({"call": "nobody", "gone": "x"}) == Privacy(call=NOBODY)
