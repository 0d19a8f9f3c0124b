"""HTTP of signing in."""

from fastapi import Response

from app.features.auth.codes import CodeHasher
from app.features.auth.limits import limit_headers
from app.features.auth.password_tokens import TOKEN_LIFETIME
from app.features.auth.schemas import (
    PasswordRequired,
    SendVerification,
    SignedIn,
    SignedInByCookie,
    Verification,
    VerifyCode,
)
from app.features.auth.send_verification import send_verification
from app.features.auth.verify_code import Attempt, HalfSignedIn, verify_code
from app.features.sessions.cookies import TokenDeliveryDep
from app.features.sessions.revocations import RevocationList
from app.transport.http.answers import ok
from app.transport.http.client_address import ClientAddressDep
from app.transport.http.dependencies import ServicesDep
from app.transport.http.limits import limited_by
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter
from app.transport.limits import LimitClass

router = SliceRouter(prefix="/auth", tags=["Auth"])


@router.post("/send-verification", response_model=Verification, responses=problem_responses(429))
@limited_by(LimitClass.SIGN_IN)
async def post_send_verification(
    services: ServicesDep, address: ClientAddressDep, body: SendVerification
) -> Response:
    """Send a six-digit code to a phone. The answer is the same whether or not it has an account."""
    sent = await send_verification(
        services.db,
        services.sms,
        keyring=services.keyring,
        index=services.index,
        hasher=services.rules.one(CodeHasher),
        events=services.events,
        limiter=services.limiter,
        limits=services.settings.sms,
        phone=body.phone,
        address=address,
    )
    answer = ok(
        {
            "verification_id": sent.verification_id,
            "phone": sent.phone,
            "expires_in": sent.expires_in,
            "resend_after": sent.resend_after,
            "code_length": sent.code_length,
        }
    )
    answer.headers.update(limit_headers(sent.quotas))
    return answer


@router.post(
    "/verify-code",
    response_model=SignedIn | SignedInByCookie | PasswordRequired,
    responses=problem_responses(400, 403),
)
@limited_by(LimitClass.CODE_CHECKS)
async def post_verify_code(
    services: ServicesDep, delivery: TokenDeliveryDep, address: ClientAddressDep, body: VerifyCode
) -> Response:
    """Sign in with a code. A phone without an account gets one, with the names given here.
    Where a second factor is set, the answer is a `password_token` for `verify-password`.
    """
    signed_in = await verify_code(
        services.db,
        services.keyring,
        index=services.index,
        tokens=services.tokens,
        revocations=services.rules.one(RevocationList),
        hasher=services.rules.one(CodeHasher),
        events=services.events,
        limits=services.settings.tokens,
        attempt=Attempt(
            verification_id=body.verification_id,
            code=body.code,
            device_name=body.device_name,
            first_name=body.first_name,
            last_name=body.last_name,
        ),
        address=address,
    )
    if isinstance(signed_in, HalfSignedIn):
        return ok(
            {
                "password_required": True,
                "password_token": signed_in.password_token,
                "expires_in": int(TOKEN_LIFETIME.total_seconds()),
                "methods": signed_in.methods,
            }
        )
    return delivery.answer(
        signed_in.tokens, {"is_new_user": signed_in.is_new_user, "user": signed_in.user}
    )
