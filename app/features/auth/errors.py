"""What can go wrong while signing in."""

from app.kernel.problems import BadRequest, Invalid


class PhoneNotSupported(Invalid):
    code = "phone_not_supported"
    title = "This kind of number cannot take a code"


class CodeInvalid(BadRequest):
    """Carries `attempts_left`."""

    code = "code_invalid"
    title = "Wrong code"


class CodeExpired(BadRequest):
    """Expired, used, replaced, tried too often, or never asked for: one answer for all."""

    code = "code_expired"
    title = "This code is no longer valid, ask for a new one"
