"""What can go wrong while signing in."""

from app.kernel.problems import BadRequest, Forbidden, Invalid, NotFound


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


class PasswordInvalid(BadRequest):
    """Of any proof of the second factor; while signing in it carries `attempts_left`."""

    code = "password_invalid"
    title = "Wrong password or code"


class PasswordTokenExpired(BadRequest):
    """Expired, used, tried too often, or never given: one answer for all."""

    code = "password_token_expired"
    title = "This sign-in is no longer valid, begin with a new code"


class PasswordTooCommon(Invalid):
    code = "password_too_common"
    title = "This password is too easily guessed"


class PasswordRequired(Forbidden):
    """A code to the phone alone confirms nothing where a second factor is set."""

    code = "password_required"
    title = "The second factor is needed"


class TwoStepNotSet(NotFound):
    code = "two_step_not_set"
    title = "There is no such second factor"
