"""Wire models of signing in."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from app.features.auth.passwords import MAX_LENGTH, MIN_LENGTH
from app.features.auth.recovery_codes import PATTERN
from app.features.sessions.schemas import CookieTokens, TokenPair
from app.features.users.schemas import Me
from app.kernel.text import MAX_NAME_LENGTH
from app.transport.http.fields import StrictModel, TextLength

M = TypeVar("M", bound=BaseModel)
Name = Annotated[str, TextLength(1, MAX_NAME_LENGTH)]


class SendVerification(StrictModel):
    phone: Annotated[
        str,
        Field(
            max_length=64,
            description="With its country code, in any spelling.",
            examples=["+49 170 1234567"],
        ),
    ]


class Verification(BaseModel):
    verification_id: str
    phone: Annotated[str, Field(description="E.164")]
    expires_in: Annotated[int, Field(description="Seconds that the code lives.")]
    resend_after: Annotated[int, Field(description="Seconds until another may be asked for.")]
    code_length: int


class VerifyCode(StrictModel):
    verification_id: Annotated[str, Field(min_length=1, max_length=128)]
    code: Annotated[str, Field(pattern=r"^[0-9]{6}$", examples=["123456"])]
    device_name: Annotated[Name | None, Field(description="Shown in my list of devices.")] = None
    first_name: Annotated[Name | None, Field(description="Of a new account.")] = None
    last_name: Annotated[Name | None, Field(description="Of a new account.")] = None


class SignedIn(TokenPair):
    is_new_user: bool
    user: Me


class SignedInByCookie(CookieTokens):
    is_new_user: bool
    user: Me


class PasswordRequired(BaseModel):
    """The code was right, and a second factor is set: go on with `verify-password`."""

    password_required: Literal[True]
    password_token: str
    expires_in: Annotated[int, Field(description="Seconds in which to go on.")]
    methods: Annotated[list[Literal["password", "totp"]], Field(description="What is set.")]


# Of a request: kept out of whatever prints a model.
HIDDEN = Field(repr=False)
Secret = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]
TotpCode = Annotated[str, Field(pattern=r"^[0-9]{6}$", examples=["123456"])]
RecoveryCode = Annotated[str, Field(pattern=PATTERN)]
TokenText = Annotated[str, Field(min_length=1, max_length=512)]


class VerifyPassword(StrictModel):
    """With exactly one of `password`, `totp` and `recovery_code`."""

    password_token: Annotated[TokenText, HIDDEN]
    password: Annotated[Secret | None, HIDDEN] = None
    totp: Annotated[TotpCode | None, HIDDEN] = None
    recovery_code: Annotated[RecoveryCode | None, HIDDEN] = None
    device_name: Annotated[Name | None, Field(description="Shown in my list of devices.")] = None

    @model_validator(mode="after")
    def _has_one_proof(self) -> Self:
        return _require_one(self, self.password, self.totp, self.recovery_code)


class Confirm(StrictModel):
    """With exactly one of `password`, `totp`, `recovery_code`, and `verification_id` with `code`."""

    password: Annotated[Secret | None, HIDDEN] = None
    totp: Annotated[TotpCode | None, HIDDEN] = None
    recovery_code: Annotated[RecoveryCode | None, HIDDEN] = None
    verification_id: Annotated[str | None, Field(min_length=1, max_length=128)] = None
    code: Annotated[str | None, Field(pattern=r"^[0-9]{6}$", repr=False)] = None

    @model_validator(mode="after")
    def _has_one_proof(self) -> Self:
        if (self.code is None) != (self.verification_id is None):
            raise PydanticCustomError("one_proof", "code and verification_id belong together")
        return _require_one(self, self.password, self.totp, self.recovery_code, self.code)


class Confirmed(BaseModel):
    fresh_until: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class SetTwoStep(StrictModel):
    """At least one of both."""

    password: Annotated[
        str | None,
        Field(
            min_length=MIN_LENGTH,
            max_length=MAX_LENGTH,
            description="Any characters; only the most common passwords are refused.",
        ),
    ] = None
    totp: Annotated[
        TotpCode | None, Field(description="The app's first code, see `POST /auth/two-step/totp`.")
    ] = None

    @model_validator(mode="after")
    def _has_any(self) -> Self:
        if self.password is None and self.totp is None:
            raise PydanticCustomError("nothing_to_set", "password or totp is needed")
        return self


class PasswordToken(StrictModel):
    password_token: Annotated[TokenText, HIDDEN]


class PendingReset(BaseModel):
    asked_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    reset_at: Annotated[
        str,
        Field(
            description="From then on whoever has the phone may remove the second factor.",
            json_schema_extra={"format": "date-time"},
        ),
    ]


class TwoStep(BaseModel):
    is_on: bool
    has_password: bool
    has_totp: bool
    recovery_codes_left: int
    reset: PendingReset | None


class TwoStepSet(TwoStep):
    recovery_codes: Annotated[
        list[str] | None, Field(description="Made just now, and shown this once.")
    ]


class TotpSecret(BaseModel):
    secret: Annotated[str, Field(description="base32")]
    uri: str
    expires_in: Annotated[int, Field(description="Seconds in which its first code must come.")]


class RecoveryCodes(BaseModel):
    recovery_codes: list[str]


class ResetState(BaseModel):
    is_done: bool
    reset_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


def _require_one(model: M, *proofs: str | None) -> M:
    if sum(proof is not None for proof in proofs) != 1:
        raise PydanticCustomError("one_proof", "exactly one proof is needed")
    return model
