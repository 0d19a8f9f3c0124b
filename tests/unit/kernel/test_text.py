"""Names, usernames and folded words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.text import (
    MAX_NAME_WORDS,
    NameInvalid,
    TextInvalid,
    UsernameInvalid,
    check_username,
    clean_about,
    clean_name,
    fold,
    name_words,
)


@pytest.mark.parametrize(
    "name",
    [
        "Ann",
        "  Ann ",  # stored as sent, never trimmed
        "Ёжик",
        "山田 太郎",
        "محمد",
        "نیم‌فاصله",  # with a zero-width non-joiner, as Persian is written
        "👨‍👩‍👧 family",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "O'Brien-Smith, Jr.",
        "<script>",
        "%_%",
        "x" * 64,
        "😀" * 32,
    ],
)
def test_a_name_is_kept_as_sent(name: str) -> None:
    assert clean_name(name, field="first_name") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "\u00a0\u3000",
        "\u200b\u200d",
        "\u2800",
        "\u3164\u3164",
        "\ufeff",
        "\u0301",
        "a\x00b",
        "a\nb",
        "a\tb",
        "a\x1b[31mb",
        "a\x7fb",
        "a\u0085b",
        "a\u2028b",
        "a\u202eb",
        "a\u2066b\u2069",
        "\ud800",
        "\ue000",
        "x" * 65,
        "😀" * 33,
    ],
)
def test_a_name_nobody_should_see_is_refused(name: str) -> None:
    with pytest.raises(NameInvalid) as caught:
        clean_name(name, field="first_name")
    assert [error.field for error in caught.value.errors] == ["first_name"]


def test_a_bio_may_be_empty_and_have_lines() -> None:
    assert clean_about("", field="bio", max_length=140) == ""
    assert clean_about("one\ntwo", field="bio", max_length=140) == "one\ntwo"


@pytest.mark.parametrize("text", ["a\rb", "a\x00", "\u202e", "x" * 141])
def test_a_bio_with_controls_or_over_long_is_refused(text: str) -> None:
    with pytest.raises(TextInvalid):
        clean_about(text, field="bio", max_length=140)


@pytest.mark.parametrize(
    ("username", "key"),
    [
        ("alice", "alice"),
        ("Alice_01", "alice_01"),
        ("a" * 32, "a" * 32),
        ("ABCDE", "abcde"),
        ("a____", "a____"),
    ],
)
def test_a_username_is_unique_without_its_case(username: str, key: str) -> None:
    assert check_username(username) == key


@pytest.mark.parametrize(
    "username",
    [
        "",
        "abcd",
        "a" * 33,
        "1alice",
        "_alice",
        "ali ce",
        "ali-ce",
        "@alice",
        "алиса",
        "al\u0131ce",  # a dotless i
        "\u212aelvin",  # the Kelvin sign, lower case k
        "alice\n",
        "support",
        "Admin",
        "TELEGRAM",
    ],
)
def test_other_usernames_are_refused(username: str) -> None:
    with pytest.raises(UsernameInvalid):
        check_username(username)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Zoë", "zoe"),
        ("ЁЛКА", "елка"),
        ("Straße", "STRASSE"),
        ("ﬁn", "fin"),
        ("\uff21nn", "ann"),
        ("İstanbul", "istanbul"),
        ("Σίσυφος", "σισυφοσ"),
    ],
)
def test_words_compare_without_case_accents_and_compatibility_forms(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Anna-Maria  O'Neil", ["anna", "maria", "o", "neil"]),
        ("  ", []),
        ("%_%", []),
        ("👍", []),
        ("Ann ann ANN", ["ann"]),
        ("山田 太郎", ["山田", "太郎"]),
        ("हिन्दी", [fold("हिन्दी")]),
        ("نیم‌فاصله", ["نیمفاصله"]),
    ],
)
def test_a_name_falls_into_words(text: str, words: list[str]) -> None:
    assert name_words(text) == words


@given(st.text(max_size=200))
def test_words_are_folded_distinct_and_few(text: str) -> None:
    words = name_words(text)
    assert len(words) == len(set(words)) <= MAX_NAME_WORDS
    assert all(words)
    assert name_words(" ".join(words)) == words


@given(st.text(max_size=100))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)
