"""Which numbers may be sent a code. Refused before anything is spent."""

import phonenumbers
from phonenumbers import PhoneNumberType

from app.features.auth.errors import PhoneNotSupported
from app.kernel.phones import PhoneInvalid, parse_phone
from app.kernel.problems import FieldError

# Where the library is sure. FIXED_LINE_OR_MOBILE (all of North America) and VOIP pass.
_REFUSED_TYPES = frozenset(
    {
        PhoneNumberType.FIXED_LINE,
        PhoneNumberType.PREMIUM_RATE,
        PhoneNumberType.SHARED_COST,
        PhoneNumberType.TOLL_FREE,
        PhoneNumberType.PERSONAL_NUMBER,
        PhoneNumberType.PAGER,
        PhoneNumberType.UAN,
        PhoneNumberType.VOICEMAIL,
    }
)
# Country codes that belong to no country: satellites (870, 881), international networks (882, 883)
# and premium services (979), with prices to match.
_NO_COUNTRY = "001"
_RANGE_DIGITS = 6


def read_sign_in_phone(text: str) -> str:
    """`text` in E.164.

    Raises:
        PhoneInvalid: no such number can exist.
        PhoneNotSupported: it is a landline, premium, satellite or service number.
    """
    phone = parse_phone(text)
    number = phonenumbers.parse(phone, None)
    if phonenumbers.region_code_for_country_code(number.country_code or 0) == _NO_COUNTRY:
        raise PhoneNotSupported(errors=[_fault("satellite and service numbers take no codes")])
    if not phonenumbers.is_valid_number(number):
        raise PhoneInvalid(errors=[_fault("must be a phone number that is in use")])
    if phonenumbers.number_type(number) in _REFUSED_TYPES:
        raise PhoneNotSupported(errors=[_fault("must be a mobile number")])
    return phone


def number_range(phone: str) -> str:
    """Country, area and the first digits: the million numbers that a fraudster rents together."""
    return phone[:-_RANGE_DIGITS]


def _fault(message: str) -> FieldError:
    return FieldError("phone", message)
