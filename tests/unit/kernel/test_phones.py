"""Phone numbers in any spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.kernel.phones import PhoneInvalid, find_phone, find_region, parse_phone


@pytest.mark.parametrize(
    "spelling",
    [
        "+14155552671",
        "+1 (415) 555-2671",
        " +1 415 555 2671 ",
        "+1.415.555.2671",
        "0014155552671",
        "\uff0b1 415 555 2671",
        "+1 415\u2013555\u20132671",
    ],
)
def test_every_spelling_is_the_same_number(spelling: str) -> None:
    assert parse_phone(spelling) == "+14155552671"


def test_a_number_without_country_is_read_as_dialled_at_home() -> None:
    assert parse_phone("8 (916) 123-45-67", region=find_region("+79001112233")) == "+79161234567"
    assert find_phone("8 (916) 123-45-67") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "+1",
        "+0000000000",
        "+999123456789",
        "+1415555267123456789",
        "4165552671",
        "+1-800-FLOWERS",
        "+14155552671 ext. 5",
        "tel:+14155552671",
        "+1415555\x002671",
        "+١٤١٥٥٥٥٢٦٧١",
        "+1" * 100,
    ],
)
def test_what_is_no_number_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(PhoneInvalid) as caught:
        parse_phone(text)
    assert [error.field for error in caught.value.errors] == ["phone"]
    if text.strip("+1"):
        assert text not in str(caught.value.document(422))


@given(st.text(max_size=45))
def test_no_text_makes_it_fail_otherwise(text: str) -> None:
    phone = find_phone(text, region="DE")
    assert phone is None or (phone[0] == "+" and phone[1:].isdigit())
