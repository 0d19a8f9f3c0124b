"""Send a sign-in code. Nothing here asks whether the phone has an account, so nothing can tell."""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import exists, insert, select, update

from app.features.audit.record import record
from app.features.auth.codes import CODE_LENGTH, CodeHasher, new_code, new_verification_id
from app.features.auth.limits import (
    Asker,
    Quota,
    is_known_caller,
    resend_after,
    take_budget,
    take_quota,
)
from app.features.auth.models import VerificationRow
from app.features.auth.phones import number_range, read_sign_in_phone
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import SERVER_KEY, Keyring
from app.infra.database.database import Database
from app.infra.database.errors import DatabaseUnavailable
from app.infra.database.tx import Tx
from app.infra.deadline import ANSWER_SECONDS, current_call, seconds_left
from app.infra.limits.port import Limiter
from app.infra.sms.port import SmsSender, SmsUnavailable
from app.kernel.addresses import network_of
from app.kernel.events import EventSink, SecurityEvent
from app.kernel.problems import RateLimited, Unavailable
from app.settings import SmsSettings

CODE_LIFETIME = timedelta(minutes=5)
PHONE_PLACE = ("phone_verifications", "phone")
# What is left for our own work once the provider has answered, or has not.
_REST_SECONDS = 0.5
# With a smaller share of SMS_TIMEOUT left a code is not sent at all: it would cost, and ring, and be refused.
_LEAST_SHARE = 0.125


@dataclass(frozen=True, slots=True)
class SentCode:
    """`resend_after` and `expires_in` in seconds; `quotas` as they are after this request."""

    verification_id: str
    phone: str
    expires_in: int
    resend_after: int
    code_length: int
    quotas: list[Quota]


async def send_verification(
    db: Database,
    sms: SmsSender,
    *,
    keyring: Keyring,
    index: BlindIndex,
    hasher: CodeHasher,
    events: EventSink,
    limiter: Limiter,
    limits: SmsSettings,
    phone: str,
    address: str,
) -> SentCode:
    """Send a code to `phone` (any spelling), asked for from `address` (an IP).

    The request counts before anything is sent; the code can be used only once the provider has
    taken it. A newer code ends the older ones that were asked for from the same address: one from
    elsewhere does not, or a stranger could end the owner's code while it is being typed.

    Raises:
        PhoneInvalid, PhoneNotSupported: see `read_sign_in_phone`.
        RateLimited: see `take_quota` and `take_budget`.
        SmsUnavailable: the provider failed or was too slow.
        Unavailable: hashing_busy, database_unavailable
    """
    _allow_for(limits)
    e164 = read_sign_in_phone(phone)
    asker = Asker(
        index.phone(e164),
        index.address(network_of(address)),
        index.phone_prefix(number_range(e164)).hex(),
    )
    verification_id, code = new_verification_id(), new_code()

    async def begin(tx: Tx) -> tuple[int, list[Quota]]:
        quotas = await take_quota(tx, limits, asker=asker)
        record(tx, SecurityEvent("sign_in_code_asked", phone_index=asker.phone_index))
        return await _insert(tx, keyring, asker, verification_id, e164), quotas

    try:
        row_id, quotas = await db.write(begin)
    except RateLimited as problem:
        events.record(SecurityEvent("sign_in_code_limited", phone_index=asker.phone_index))
        problem.is_recorded = True
        raise
    try:
        if not is_known_caller(quotas):
            await take_budget(limiter, limits, phone=e164)
        code_hash = await hasher.hash(verification_id, code)
        await _send(sms, limits, e164, code)
    except (RateLimited, Unavailable) as refusal:
        # Whoever asked is not kept waiting for it.
        with contextlib.suppress(DatabaseUnavailable):
            await db.write(lambda tx: _mark_failed(tx, row_id))
        if isinstance(refusal, RateLimited):
            events.record(SecurityEvent("sign_in_budget_spent", phone_index=asker.phone_index))
            refusal.is_recorded = True
        raise
    await db.write(lambda tx: _arm(tx, asker, row_id, code_hash))
    return SentCode(
        verification_id=verification_id,
        phone=e164,
        expires_in=int(CODE_LIFETIME.total_seconds()),
        resend_after=resend_after(quotas),
        code_length=CODE_LENGTH,
        quotas=quotas,
    )


async def _insert(tx: Tx, keyring: Keyring, asker: Asker, verification_id: str, phone: str) -> int:
    row_id = (await tx.reserve_ids(VerificationRow, 1))[0]
    key = await keyring.require(tx, SERVER_KEY)
    table, column = PHONE_PLACE
    sealed = key.seal_text(
        phone, table=table, column=column, row_id=row_id, encrypt=keyring.personal
    )
    await tx.execute(
        insert(VerificationRow).values(
            id=row_id,
            public_id=verification_id,
            phone=sealed,
            phone_index=asker.phone_index,
            address_index=asker.address_index,
            prefix=asker.prefix,
            attempts=0,
            created_at=tx.now,
            expires_at=tx.now,
        )
    )
    return row_id


def _allow_for(limits: SmsSettings) -> None:
    """Whoever allows the provider more than a call usually takes allows this call more."""
    call = current_call()
    if call is not None:
        call.postpone(max(0.0, limits.timeout_seconds + _REST_SECONDS - ANSWER_SECONDS))


async def _send(sms: SmsSender, limits: SmsSettings, phone: str, code: str) -> None:
    text = f"{code} is your sign-in code. Give it to nobody, whoever asks."
    seconds = min(limits.timeout_seconds, seconds_left() - _REST_SECONDS)
    if seconds < limits.timeout_seconds * _LEAST_SHARE:
        raise SmsUnavailable
    try:
        async with asyncio.timeout(seconds):
            await sms.send(phone, code=code, text=text)
    except TimeoutError:
        raise SmsUnavailable from None


async def _mark_failed(tx: Tx, row_id: int) -> None:
    await tx.execute(
        update(VerificationRow).where(VerificationRow.id == row_id).values(replaced_at=tx.now)
    )


async def _arm(tx: Tx, asker: Asker, row_id: int, code_hash: bytes) -> None:
    """From here on the code can be used, unless a newer one was faster."""
    await tx.lock_names([f"phone:{asker.phone_index.hex()}"])
    same_pair = (VerificationRow.phone_index == asker.phone_index) & (
        VerificationRow.address_index == asker.address_index
    )
    newer = await tx.scalar(
        select(
            exists().where(
                same_pair, VerificationRow.id > row_id, VerificationRow.code_hash.is_not(None)
            )
        )
    )
    await tx.execute(
        update(VerificationRow)
        .where(VerificationRow.id == row_id)
        .values(
            code_hash=code_hash,
            expires_at=tx.now + CODE_LIFETIME,
            replaced_at=tx.now if newer else None,
        )
    )
    await tx.execute(
        update(VerificationRow)
        .where(
            same_pair,
            VerificationRow.id < row_id,
            VerificationRow.code_hash.is_not(None),
            VerificationRow.used_at.is_(None),
            VerificationRow.replaced_at.is_(None),
        )
        .values(replaced_at=tx.now)
    )
