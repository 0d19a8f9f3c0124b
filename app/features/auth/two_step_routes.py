"""HTTP of the second factor: setting it, signing in with it, confirming, resetting it."""

from datetime import timedelta
from typing import Annotated

from fastapi import Query, Response

from app.features.auth.change_two_step import (
    PENDING_FOR,
    Choice,
    Part,
    begin_totp,
    change_two_step,
    get_two_step,
    make_recovery_codes,
    remove_two_step,
)
from app.features.auth.codes import CodeHasher
from app.features.auth.confirm import CodeProof, confirm_by_code, confirm_by_factor
from app.features.auth.passwords import PasswordHasher
from app.features.auth.prove import Proof
from app.features.auth.reset_two_step import cancel_reset, reset_two_step
from app.features.auth.schemas import (
    Confirm,
    Confirmed,
    PasswordToken,
    RecoveryCodes,
    ResetState,
    SetTwoStep,
    SignedIn,
    SignedInByCookie,
    TotpSecret,
    TwoStep,
    TwoStepSet,
    VerifyPassword,
)
from app.features.auth.verify_password import SecondStep, verify_password
from app.features.sessions.cookies import TokenDeliveryDep
from app.features.sessions.dependencies import CurrentSessionDep
from app.features.sessions.revocations import RevocationList
from app.kernel.clock import format_time
from app.transport.http.answers import created, no_content, ok
from app.transport.http.client_address import ClientAddressDep
from app.transport.http.dependencies import ServicesDep
from app.transport.http.limits import limited_by
from app.transport.http.problems import problem_responses
from app.transport.http.routing import SliceRouter
from app.transport.limits import LimitClass

router = SliceRouter(prefix="/auth", tags=["Auth"])


@router.post(
    "/verify-password",
    response_model=SignedIn | SignedInByCookie,
    responses=problem_responses(400, 403, 429),
)
@limited_by(LimitClass.CODE_CHECKS)
async def post_verify_password(
    services: ServicesDep,
    delivery: TokenDeliveryDep,
    address: ClientAddressDep,
    body: VerifyPassword,
) -> Response:
    """The second step of signing in: the `password_token` of `verify-code`, and the second password,
    a code of the authenticator app or a recovery code.
    """
    signed_in = await verify_password(
        services.db,
        services.keyring,
        index=services.index,
        tokens=services.tokens,
        revocations=services.rules.one(RevocationList),
        hasher=services.rules.one(PasswordHasher),
        events=services.events,
        limits=services.settings.tokens,
        step=SecondStep(
            password_token=body.password_token,
            proof=Proof(body.password, body.totp, body.recovery_code),
            device_name=body.device_name,
        ),
        address=address,
    )
    return delivery.answer(
        signed_in.tokens, {"is_new_user": signed_in.is_new_user, "user": signed_in.user}
    )


@router.post(
    "/confirm",
    response_model=Confirmed,
    responses=problem_responses(400, 401, 403, 404, 429),
)
@limited_by(LimitClass.CODE_CHECKS)
async def post_confirm(
    services: ServicesDep, session: CurrentSessionDep, address: ClientAddressDep, body: Confirm
) -> Response:
    """Prove again that it is you, before a sensitive change: by the second factor, or without one by
    a new code (`send-verification` to your own phone).
    """
    if body.verification_id is not None and body.code is not None:
        confirmed_at = await confirm_by_code(
            services.db,
            services.keyring,
            index=services.index,
            hasher=services.rules.one(CodeHasher),
            events=services.events,
            caller=session,
            proof=CodeProof(body.verification_id, body.code),
        )
    else:
        confirmed_at = await confirm_by_factor(
            services.db,
            services.keyring,
            index=services.index,
            hasher=services.rules.one(PasswordHasher),
            events=services.events,
            caller=session,
            proof=Proof(body.password, body.totp, body.recovery_code),
            address=address,
        )
    fresh_for = timedelta(minutes=services.settings.two_step.fresh_minutes)
    return ok({"fresh_until": format_time(confirmed_at + fresh_for)})


@router.get("/two-step", response_model=TwoStep, responses=problem_responses(401))
async def get_two_step_state(services: ServicesDep, session: CurrentSessionDep) -> Response:
    """Which second factor is set; never its secrets."""
    return ok(await get_two_step(services.db, services.keyring, user_id=session.user_id))


@router.put("/two-step", response_model=TwoStepSet, responses=problem_responses(400, 401, 403))
async def put_two_step(
    services: ServicesDep, session: CurrentSessionDep, body: SetTwoStep
) -> Response:
    """Set or change the second password, or let the authenticator app count from now on by its first
    code. Wants fresh authentication; ends all other sessions.
    """
    changed = await change_two_step(
        services.db,
        services.keyring,
        revocations=services.rules.one(RevocationList),
        hasher=services.rules.one(PasswordHasher),
        caller=session,
        choice=Choice(body.password, body.totp),
        fresh_minutes=services.settings.two_step.fresh_minutes,
    )
    return ok({**changed.state, "recovery_codes": changed.recovery_codes})


@router.delete("/two-step", status_code=204, responses=problem_responses(401, 403, 404))
async def delete_two_step(
    services: ServicesDep,
    session: CurrentSessionDep,
    part: Annotated[
        Part | None, Query(description="What to remove; without it all, recovery codes too.")
    ] = None,
) -> Response:
    """Remove the second factor. Wants fresh authentication; ends all other sessions."""
    await remove_two_step(
        services.db,
        services.keyring,
        revocations=services.rules.one(RevocationList),
        caller=session,
        part=part,
        fresh_minutes=services.settings.two_step.fresh_minutes,
    )
    return no_content()


@router.post(
    "/two-step/totp",
    status_code=201,
    response_model=TotpSecret,
    responses=problem_responses(401, 403),
)
async def post_totp(services: ServicesDep, session: CurrentSessionDep) -> Response:
    """A secret for an authenticator app, as text and as an `otpauth:` address for a QR code. It
    counts once its first code was sent by PUT. Wants fresh authentication.
    """
    pending = await begin_totp(
        services.db,
        services.keyring,
        caller=session,
        fresh_minutes=services.settings.two_step.fresh_minutes,
    )
    seconds = int(PENDING_FOR.total_seconds())
    return created({"secret": pending.secret, "uri": pending.uri, "expires_in": seconds})


@router.post(
    "/two-step/recovery-codes",
    status_code=201,
    response_model=RecoveryCodes,
    responses=problem_responses(401, 403, 404),
)
async def post_recovery_codes(services: ServicesDep, session: CurrentSessionDep) -> Response:
    """Ten new recovery codes, shown this once; the old ones are void. Wants fresh authentication."""
    codes = await make_recovery_codes(
        services.db,
        keyring=services.keyring,
        caller=session,
        fresh_minutes=services.settings.two_step.fresh_minutes,
    )
    return created({"recovery_codes": codes})


@router.post("/two-step/reset", response_model=ResetState, responses=problem_responses(400))
@limited_by(LimitClass.CODE_CHECKS)
async def post_reset(services: ServicesDep, body: PasswordToken) -> Response:
    """The second factor is lost: ask for its removal. All my devices are told, and each can cancel
    it; after the waiting period the same call removes it, and a new code signs in.
    """
    reset = await reset_two_step(
        services.db,
        services.keyring,
        revocations=services.rules.one(RevocationList),
        password_token=body.password_token,
        waiting=timedelta(days=services.settings.two_step.reset_days),
    )
    return ok({"is_done": reset.is_done, "reset_at": format_time(reset.reset_at)})


@router.delete("/two-step/reset", status_code=204, responses=problem_responses(401, 404))
async def delete_reset(services: ServicesDep, session: CurrentSessionDep) -> Response:
    """Cancel a reset of my second factor that was asked for."""
    await cancel_reset(services.db, services.keyring, caller=session)
    return no_content()
