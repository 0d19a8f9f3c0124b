"""Wire models of signing in."""

from typing import Annotated

from pydantic import BaseModel, Field

from app.features.sessions.schemas import CookieTokens, TokenPair
from app.features.users.schemas import Me
from app.kernel.text import MAX_NAME_LENGTH
from app.transport.http.fields import StrictModel, TextLength

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
