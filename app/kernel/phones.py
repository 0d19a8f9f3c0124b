"""Phone numbers: any spelling in, E.164 out."""

import re

import phonenumbers

from app.kernel.problems import FieldError, Invalid

MAX_SPELLING_LENGTH = 40

_FEWEST_DIGITS = 5
# What people write between digits; letters ("1-800-FLOWERS") and extensions are refused.
_SPELLING = re.compile(r"[+\uff0b]?[0-9\s().\-\u00a0\u2010-\u2015/]{3,40}")


class PhoneInvalid(Invalid):
    code = "phone_invalid"
    title = "This is not a phone number"


def parse_phone(text: str, *, field: str = "phone", region: str | None = None) -> str:
    """`text` as `+` and digits. Without `+` or `00` it is read as dialled in `region` ("DE").

    Raises:
        phone_invalid: it is not a number that can exist.
    """
    phone = find_phone(text, region=region)
    if phone is None:
        message = "must be a phone number with its country code, such as +14155552671"
        raise PhoneInvalid(errors=[FieldError(field, message)])
    return phone


def find_phone(text: str, *, region: str | None = None) -> str | None:
    """As `parse_phone`, or None."""
    spelling = text.strip()
    if len(spelling) > MAX_SPELLING_LENGTH or not _SPELLING.fullmatch(spelling):
        return None
    if spelling.startswith("00"):
        spelling = "+" + spelling.removeprefix("00")
    try:
        number = phonenumbers.parse(spelling, region)
    except phonenumbers.NumberParseException:
        return None
    # "Possible", not "valid": carriers open new ranges faster than the library is updated.
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def is_dialable(text: str) -> bool:
    """Whether somebody who typed this may have meant a phone number."""
    digits = sum(character.isdigit() for character in text)
    return digits >= _FEWEST_DIGITS and _SPELLING.fullmatch(text.strip()) is not None


def find_region(phone: str) -> str | None:
    """The region in which an E.164 number is dialled without its country code."""
    try:
        number = phonenumbers.parse(phone, None)
    except phonenumbers.NumberParseException:
        return None
    return phonenumbers.region_code_for_number(number) or phonenumbers.region_code_for_country_code(
        number.country_code or 0
    )
