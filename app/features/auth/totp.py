"""Codes of an authenticator app: RFC 6238 with what all apps know, SHA-1, 30 s and six digits."""

import hmac
from datetime import datetime

from pyotp import random_base32
from pyotp.totp import TOTP

_STEP_SECONDS = 30
# The clock of a phone may be off by one step (RFC 6238, 5.2).
_STEPS_OFF = 1
_ISSUER = "Messenger"


def new_secret() -> str:
    """160 random bits in base32."""
    return random_base32()


def render_uri(secret: str, *, account: str) -> str:
    """`otpauth://totp/...`, what apps read as a QR code."""
    return TOTP(secret).provisioning_uri(name=account, issuer_name=_ISSUER)


def find_step(secret: str, code: str, *, now: datetime, after: int | None) -> int | None:
    """The time step that `code` belongs to; None if it is wrong or not newer than `after`.

    A step counts once: a code that somebody has looked over one's shoulder is worth nothing after
    its use (RFC 6238, 5.2).
    """
    otp = TOTP(secret)
    current = int(now.timestamp()) // _STEP_SECONDS
    found: int | None = None
    for step in range(current - _STEPS_OFF, current + _STEPS_OFF + 1):
        is_right = hmac.compare_digest(otp.generate_otp(step).encode(), code.encode())
        if is_right and (after is None or step > after):
            found = step
    return found
