"""Entities: offsets in UTF-16 code units, a closed set of types, safe links only."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.entities import (
    MAX_ENTITIES,
    EntitiesInvalid,
    EntityType,
    check_entities,
    is_safe_link,
    render_entities,
    utf16_length,
    utf16_slice,
)

FAMILY = "👨‍👩‍👧"  # eight code units, five characters


@pytest.mark.parametrize(
    ("text", "length"),
    [("", 0), ("abc", 3), ("żółw", 4), ("😀", 2), (FAMILY, 8), ("a\u0301", 2), ("\ud800", 1)],
)
def test_a_length_counts_utf16_code_units(text: str, length: int) -> None:
    assert utf16_length(text) == length


def test_a_part_behind_an_emoji_is_found_by_its_code_units() -> None:
    text = "😀 bold"
    [entity] = check_entities(text, [{"type": "bold", "offset": 3, "length": 4}])
    assert utf16_slice(text, entity.offset, entity.length) == "bold"


@pytest.mark.parametrize(
    "kind", [k for k in EntityType if k not in {EntityType.TEXT_LINK, EntityType.TEXT_MENTION}]
)
def test_every_plain_type_is_taken(kind: EntityType) -> None:
    raw = [{"type": kind.value, "offset": 0, "length": 5}]
    assert render_entities(check_entities("hello", raw)) == raw


@pytest.mark.parametrize(
    "raw",
    [
        {"type": "text_link", "offset": 0, "length": 5, "url": "https://example.org/?q=1#x"},
        {"type": "text_mention", "offset": 0, "length": 5, "user_id": 42},
        {"type": "pre", "offset": 0, "length": 5, "language": "c++"},
    ],
)
def test_a_type_keeps_its_own_member(raw: dict[str, object]) -> None:
    assert render_entities(check_entities("hello", [raw])) == [raw]


def test_members_that_are_null_count_as_absent() -> None:
    raw: dict[str, object] = {
        "type": "bold",
        "offset": 0,
        "length": 1,
        "url": None,
        "user_id": None,
    }
    assert render_entities(check_entities("x", [raw])) == [
        {"type": "bold", "offset": 0, "length": 1}
    ]


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"offset": 0, "length": 1}, "type"),
        ({"type": "custom_emoji", "offset": 0, "length": 1}, "type"),
        ({"type": "blink", "offset": 0, "length": 1}, "type"),
        ({"type": ["bold"], "offset": 0, "length": 1}, "type"),
        ({"type": "bold", "offset": 0, "length": 1, "color": "red"}, "type"),
        ({"type": "bold", "offset": 0, "length": 1, "url": "https://example.org"}, "url"),
        ({"type": "bold", "offset": -1, "length": 1}, "offset"),
        ({"type": "bold", "offset": True, "length": 1}, "offset"),
        ({"type": "bold", "offset": 0.0, "length": 1}, "offset"),
        ({"type": "bold", "length": 1}, "offset"),
        ({"type": "bold", "offset": 0, "length": 0}, "length"),
        ({"type": "bold", "offset": 0, "length": True}, "length"),
        ({"type": "bold", "offset": 0, "length": 10**30}, "length"),
        ({"type": "bold", "offset": 5, "length": 1}, "offset"),
        ({"type": "bold", "offset": 4, "length": 2}, "length"),
        ({"type": "bold", "offset": 3, "length": 1}, "offset"),
        ({"type": "bold", "offset": 1, "length": 2}, "length"),
        ({"type": "text_link", "offset": 0, "length": 1}, "url"),
        ({"type": "text_link", "offset": 0, "length": 1, "url": "javascript:alert(1)"}, "url"),
        ({"type": "text_link", "offset": 0, "length": 1, "url": "https://" + "a" * 3000}, "url"),
        ({"type": "text_mention", "offset": 0, "length": 1}, "user_id"),
        ({"type": "text_mention", "offset": 0, "length": 1, "user_id": 0}, "user_id"),
        ({"type": "text_mention", "offset": 0, "length": 1, "user_id": 10**12}, "user_id"),
        ({"type": "text_mention", "offset": 0, "length": 1, "user_id": "42"}, "user_id"),
        ({"type": "pre", "offset": 0, "length": 1, "language": ""}, "language"),
        ({"type": "pre", "offset": 0, "length": 1, "language": "x\ny"}, "language"),
    ],
)
def test_a_wrong_entity_is_refused_and_named(raw: dict[str, object], field: str) -> None:
    text = "ab😀c"  # five code units; 3 lies inside the emoji
    good = {"type": "italic", "offset": 0, "length": 1}
    with pytest.raises(EntitiesInvalid) as caught:
        check_entities(text, [good, raw])
    assert [error.field for error in caught.value.errors] == [f"entities.1.{field}"]
    assert "javascript" not in str(caught.value.document(422))


def test_entities_are_sorted_the_longer_first() -> None:
    raw = [
        {"type": "bold", "offset": 2, "length": 1},
        {"type": "italic", "offset": 0, "length": 1},
        {"type": "spoiler", "offset": 0, "length": 3},
    ]
    assert [entity.type.value for entity in check_entities("abc", raw)] == [
        "spoiler",
        "italic",
        "bold",
    ]


def test_at_most_a_hundred_entities() -> None:
    raw = [{"type": "bold", "offset": 0, "length": 1}] * MAX_ENTITIES
    assert len(check_entities("a", raw)) == MAX_ENTITIES
    with pytest.raises(EntitiesInvalid):
        check_entities("a", [*raw, raw[0]])


def test_an_empty_text_has_no_room_for_an_entity() -> None:
    with pytest.raises(EntitiesInvalid):
        check_entities("", [{"type": "bold", "offset": 0, "length": 1}])


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "HTTP://EXAMPLE.ORG/a%20b",
        "http://[::1]:8000/",
        "https://пример.рф/путь",
        "mailto:someone@example.org",
        "tg://user?id=1",
        "tg:resolve?domain=name",
    ],
)
def test_links_people_use_are_safe(url: str) -> None:
    assert is_safe_link(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "//example.org",
        "https:",
        "https://",
        "https:///path",
        "http://[::1",
        "mailto:",
        "tg:",
        "javascript:alert(1)",
        "JaVaScRiPt://x/%0aalert(1)",
        "java\nscript:alert(1)",
        " https://example.org",
        "https://example.org/\u202egpj",
        "https://example.org/\x00",
        "https://exa mple.org",
        'https://example.org/"onclick=',
        "https:\\\\example.org",
        "data:text/html,x",
        "file:///etc/passwd",
        "vbscript:x",
        "ftp://example.org",
    ],
)
def test_other_links_are_not(url: str) -> None:
    assert not is_safe_link(url)


@given(
    text=st.text(max_size=30),
    offset=st.integers(-2, 70),
    length=st.integers(-2, 70),
)
def test_what_is_taken_marks_whole_characters_of_the_text(
    text: str, offset: int, length: int
) -> None:
    try:
        [entity] = check_entities(text, [{"type": "bold", "offset": offset, "length": length}])
    except EntitiesInvalid:
        return
    part = utf16_slice(text, entity.offset, entity.length)
    assert part
    assert part in text
    assert utf16_length(part) == length


@given(
    st.lists(
        st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text()),
        max_size=3,
    )
)
def test_no_input_makes_it_fail_otherwise(raw: list[dict[str, object]]) -> None:
    with contextlib.suppress(EntitiesInvalid):
        check_entities("some text 😀", raw)
