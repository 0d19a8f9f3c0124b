"""Signing in: limits that hold, that a stranger cannot turn on the owner, and codes used once."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from sqlalchemy import func, select

from app.features.auth.codes import CodeHasher, new_code
from app.features.auth.errors import CodeExpired, CodeInvalid, PhoneNotSupported
from app.features.auth.jobs import forget_codes
from app.features.auth.limits import MAX_GUESSES_A_DAY, limit_headers
from app.features.auth.models import VerificationRow
from app.features.auth.phones import read_sign_in_phone
from app.features.auth.send_verification import SentCode, send_verification
from app.features.auth.verify_code import DEFAULT_FIRST_NAME, Attempt, SignedIn, verify_code
from app.features.users.models import UserRow
from app.infra.database.tx import Tx
from app.infra.deadline import seconds_left
from app.infra.hashing import SlowHasher
from app.infra.limits.memory import MemoryLimiter
from app.infra.sms.port import SmsUnavailable
from app.kernel.addresses import network_of
from app.kernel.phones import PhoneInvalid
from app.kernel.problems import RateLimited
from app.kernel.text import NameInvalid
from app.settings import SmsSettings
from tests.support.calls import a_call
from tests.unit.features.conftest import LIMITS, World

PHONE = "+491701234567"
HOME, ELSEWHERE = "198.51.100.7", "203.0.113.9"
DEFAULTS = SmsSettings(_env_file=None)
OPEN = SmsSettings(
    _env_file=None,
    limit_per_phone=10_000,
    limit_per_address=10_000,
    limit_per_prefix=10_000,
    limit_per_day=10_000,
)


@dataclass
class Inbox:
    """The outside world's phones."""

    sent: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    is_failing: bool = False
    seconds: float = 0

    async def send(self, phone: str, *, code: str, text: str) -> None:
        await asyncio.sleep(self.seconds)
        if self.is_failing:
            raise SmsUnavailable
        assert code in text
        self.sent.append((phone, code))

    async def close(self) -> None:
        pass

    @property
    def code(self) -> str:
        return self.sent[-1][1]


@dataclass
class Desk:
    """Where people sign in."""

    world: World
    hasher: CodeHasher
    inbox: Inbox = field(default_factory=Inbox)
    limits: SmsSettings = DEFAULTS
    limiter: MemoryLimiter = field(default_factory=MemoryLimiter)

    async def ask(self, phone: str = PHONE, address: str = HOME) -> SentCode:
        return await send_verification(
            self.world.db,
            self.inbox,
            keyring=self.world.keyring,
            index=self.world.index,
            hasher=self.hasher,
            events=self.world.events,
            limiter=self.limiter,
            limits=self.limits,
            phone=phone,
            address=address,
        )

    async def guess(self, sent: SentCode, code: str, **names: str) -> SignedIn:
        return await verify_code(
            self.world.db,
            self.world.keyring,
            index=self.world.index,
            tokens=self.world.tokens,
            revocations=self.world.revocations,
            hasher=self.hasher,
            events=self.world.events,
            limits=LIMITS,
            attempt=Attempt(verification_id=sent.verification_id, code=code, **names),
        )

    async def sign_in(self, phone: str = PHONE, address: str = HOME, **names: str) -> SignedIn:
        sent = await self.ask(phone, address)
        return await self.guess(sent, self.inbox.code, **names)

    async def guess_wrong(self, sent: SentCode, times: int, code: str) -> int:
        """How many of the guesses were looked at."""
        taken = 0
        for _ in range(times):
            try:
                await self.guess(sent, wrong(code))
            except CodeInvalid:
                taken += 1
            except CodeExpired:
                pass
        return taken


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06d}"


@pytest.fixture
async def desk(world: World) -> Desk:
    return Desk(world, CodeHasher(world.keyring, SlowHasher(rounds=4)))


async def test_a_phone_signs_up_and_signs_in(desk: Desk) -> None:
    first = await desk.sign_in(first_name="Anna", last_name="Schmidt", device_name="Laptop")
    assert first.is_new_user
    assert (first.user["first_name"], first.user["phone"]) == ("Anna", PHONE)
    again = await desk.sign_in(first_name="Other")
    assert not again.is_new_user
    assert again.user == first.user
    assert desk.world.events.names() == ["sign_in_code_asked", "signed_in"] * 2


async def test_a_new_account_without_a_name_gets_one_that_tells_nothing(desk: Desk) -> None:
    assert (await desk.sign_in()).user["first_name"] == DEFAULT_FIRST_NAME


async def test_a_code_is_used_once_under_parallel_tries(desk: Desk) -> None:
    sent = await desk.ask()
    outcomes = await asyncio.gather(
        *(desk.guess(sent, desk.inbox.code) for _ in range(50)), return_exceptions=True
    )
    assert Counter(type(outcome) for outcome in outcomes) == {SignedIn: 1, CodeExpired: 49}


async def test_parallel_guesses_count_as_five(desk: Desk) -> None:
    sent = await desk.ask()
    outcomes = await asyncio.gather(
        *(desk.guess(sent, wrong(desk.inbox.code)) for _ in range(50)), return_exceptions=True
    )
    assert Counter(type(outcome) for outcome in outcomes) == {CodeInvalid: 5, CodeExpired: 45}
    left = [o.members["attempts_left"] for o in outcomes if isinstance(o, CodeInvalid)]
    assert sorted(left) == [0, 1, 2, 3, 4]
    with pytest.raises(CodeExpired):
        await desk.guess(sent, desk.inbox.code)


async def test_two_first_sign_ins_at_once_make_one_account(desk: Desk) -> None:
    sent = [await desk.ask(address=address) for address in (HOME, ELSEWHERE)]
    codes = [code for _, code in desk.inbox.sent]
    results = await asyncio.gather(
        *(desk.guess(s, code, first_name="Anna") for s, code in zip(sent, codes, strict=True))
    )
    assert len({result.user["id"] for result in results}) == 1
    assert sorted(result.is_new_user for result in results) == [False, True]
    count = select(func.count()).select_from(UserRow)
    assert await desk.world.db.read(lambda tx: tx.scalar(count)) == 1


async def test_a_code_dies_in_time(desk: Desk) -> None:
    sent = await desk.ask()
    desk.world.clock.advance(minutes=5)
    with pytest.raises(CodeExpired):
        await desk.guess(sent, desk.inbox.code)


async def test_a_newer_code_ends_the_older_of_the_same_address(desk: Desk) -> None:
    first = await desk.ask()
    code = desk.inbox.code
    second = await desk.ask()
    with pytest.raises(CodeExpired):
        await desk.guess(first, code)
    await desk.guess(second, desk.inbox.code)


async def test_a_stranger_cannot_end_the_code_that_the_owner_types(desk: Desk) -> None:
    mine = await desk.ask(address=HOME)
    code = desk.inbox.code
    theirs = await desk.ask(address=ELSEWHERE)
    await desk.guess_wrong(theirs, 50, desk.inbox.code)
    await desk.guess(mine, code)


async def test_a_code_belongs_to_its_request(desk: Desk) -> None:
    mine = await desk.ask(address=HOME)
    code = desk.inbox.code
    theirs = await desk.ask(address=ELSEWHERE)
    if code == desk.inbox.code:
        pytest.skip("one time in a million")
    with pytest.raises(CodeInvalid):
        await desk.guess(theirs, code)
    await desk.guess(mine, code)


async def test_at_most_30_guesses_a_day_however_they_are_spread(desk: Desk) -> None:
    desk.limits = OPEN
    taken = 0
    for number in range(25):
        sent = await desk.ask(address=f"203.0.113.{number}")
        taken += await desk.guess_wrong(sent, 6 if number < 3 else 2, desk.inbox.code)
    assert taken == MAX_GUESSES_A_DAY
    desk.world.clock.advance(days=1, minutes=1)
    assert await desk.guess_wrong(await desk.ask(), 6, desk.inbox.code) == 5


async def test_parallel_guesses_at_many_codes_keep_to_the_cap(desk: Desk) -> None:
    desk.limits = OPEN
    sent = [await desk.ask(address=f"203.0.113.{number}") for number in range(12)]
    codes = [code for _, code in desk.inbox.sent]
    outcomes = await asyncio.gather(
        *(
            desk.guess(s, wrong(code))
            for s, code in zip(sent, codes, strict=True)
            for _ in range(5)
        ),
        return_exceptions=True,
    )
    taken = sum(isinstance(outcome, CodeInvalid) for outcome in outcomes)
    # Up to ten at two or more codes, then one at each that has none.
    assert 12 <= taken <= 22


async def test_all_that_strangers_can_ask_for_leaves_the_owner_a_try(desk: Desk) -> None:
    """With the default limits, from as many addresses as it takes."""
    await desk.sign_in(first_name="Anna", address=HOME)
    for number in range(DEFAULTS.limit_per_day + 5):
        try:
            sent = await desk.ask(address=f"203.0.113.{number}")
        except RateLimited:
            continue
        await desk.guess_wrong(sent, 2, desk.inbox.code)
    with pytest.raises(RateLimited):
        await desk.ask(address=ELSEWHERE)
    # The owner's own address is known from an earlier sign-in.
    assert not (await desk.sign_in(address=HOME)).is_new_user


async def test_one_address_takes_a_third_of_a_phones_day_at_most(desk: Desk) -> None:
    sent = 0
    for _ in range(DEFAULTS.limit_per_day):
        try:
            await desk.ask(address=ELSEWHERE)
            sent += 1
        except RateLimited:
            pass
        desk.world.clock.advance(minutes=10)
    assert sent == DEFAULTS.limit_per_day // 3
    await desk.sign_in(address=HOME)


async def test_limits_name_when_to_come_back_and_keep_to_it(desk: Desk) -> None:
    for left in (2, 1, 0):
        sent = await desk.ask()
        headers = limit_headers(sent.quotas)
        assert f'"phone";r={left};' in headers["RateLimit"]
        assert '"phone";q=3;w=600' in headers["RateLimit-Policy"]
        desk.world.clock.advance(seconds=10)
    assert sent.resend_after == 580
    with pytest.raises(RateLimited) as caught:
        await desk.ask()
    assert caught.value.retry_after == 570
    assert '"phone";r=0;t=570' in caught.value.headers["RateLimit"]
    desk.world.clock.advance(seconds=570)
    await desk.ask()


async def test_the_headers_tell_nothing_of_what_others_asked(desk: Desk) -> None:
    before = (await desk.ask("+491701111111", "192.0.2.1")).quotas
    for number in range(5):
        await desk.ask("+491702222222", f"203.0.113.{number}")
    after = (await desk.ask("+491702222222", "192.0.2.2")).quotas
    assert limit_headers(before) == limit_headers(after)


async def test_parallel_requests_keep_to_the_limit(desk: Desk) -> None:
    outcomes = await asyncio.gather(*(desk.ask() for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, SentCode) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, RateLimited) for outcome in outcomes) == 17
    assert len(desk.inbox.sent) == 3
    names = desk.world.events.names()
    assert sorted(names) == ["sign_in_code_asked"] * 3 + ["sign_in_code_limited"] * 17


async def test_one_address_is_limited_over_all_phones_and_a_64_is_one_address(desk: Desk) -> None:
    for number in range(DEFAULTS.limit_per_address):
        await desk.ask(f"+4917012345{number:02d}", f"2001:db8::{number + 1:x}")
    with pytest.raises(RateLimited):
        await desk.ask("+491701234599", "2001:db8::ffff")
    await desk.ask("+491701234599", "2001:db8:0:1::1")


async def test_one_range_of_numbers_is_limited_over_all_addresses(desk: Desk) -> None:
    desk.limits = SmsSettings(_env_file=None, limit_per_prefix=4)
    for number in range(4):
        await desk.ask(f"+4917012345{number:02d}", f"203.0.113.{number}")
    with pytest.raises(RateLimited):
        await desk.ask("+491701999999", "203.0.113.99")
    await desk.ask("+491702999999", "203.0.113.99")


@pytest.mark.parametrize("way", ["failing", "hanging"])
async def test_a_code_that_was_not_sent_cannot_be_used(desk: Desk, way: str) -> None:
    desk.limits = SmsSettings(_env_file=None, timeout_seconds=0.05)
    desk.inbox.is_failing, desk.inbox.seconds = way == "failing", 5 * (way == "hanging")
    for _ in range(4):
        with pytest.raises(SmsUnavailable):
            await desk.ask()
    hashes = select(VerificationRow.public_id).where(VerificationRow.code_hash.is_not(None))
    assert await desk.world.db.read(lambda tx: tx.scalars(hashes)) == []
    # The person is not punished for it.
    desk.inbox.is_failing, desk.inbox.seconds = False, 0
    await desk.sign_in()


async def test_a_code_is_not_sent_when_its_caller_could_not_wait_for_the_outcome(
    desk: Desk,
) -> None:
    """It would ring and cost, and nobody could use it."""
    with a_call(seconds=0.9), pytest.raises(SmsUnavailable):
        await desk.ask()
    assert desk.inbox.sent == []
    await desk.sign_in()


async def test_a_silent_provider_has_only_what_the_call_has_left(desk: Desk) -> None:
    desk.inbox.seconds = 30
    started = time.monotonic()
    with a_call(seconds=1.5), pytest.raises(SmsUnavailable):
        await desk.ask()
    assert time.monotonic() - started < 20


async def test_whoever_gives_the_provider_longer_gives_the_call_longer(desk: Desk) -> None:
    desk.limits = SmsSettings(_env_file=None, timeout_seconds=9)
    desk.inbox.seconds = 1.5
    with a_call(seconds=1.5):
        await desk.ask()
        assert seconds_left() > 3


async def test_a_failed_resend_leaves_the_older_code_alive(desk: Desk) -> None:
    sent = await desk.ask()
    desk.inbox.is_failing = True
    with pytest.raises(SmsUnavailable):
        await desk.ask()
    await desk.guess(sent, desk.inbox.code)


async def test_a_bad_name_costs_no_try(desk: Desk) -> None:
    sent = await desk.ask()
    for _ in range(10):
        with pytest.raises(NameInvalid):
            await desk.guess(sent, desk.inbox.code, first_name="a\u202eb")
    await desk.guess(sent, desk.inbox.code, first_name="Anna")


async def test_the_database_holds_neither_phone_nor_code_nor_address(desk: Desk) -> None:
    await desk.ask()

    async def stored(tx: Tx) -> bytes:
        rows = await tx.all(select(VerificationRow.__table__))
        return b"|".join(
            part if isinstance(part, bytes) else str(part).encode() for row in rows for part in row
        )

    blob = await desk.world.db.read(stored)
    for marker in (PHONE, PHONE[1:], PHONE[:-6], desk.inbox.code, HOME):
        assert marker.encode() not in blob


async def test_old_codes_are_forgotten_but_known_addresses_are_not(desk: Desk) -> None:
    await desk.sign_in()
    await desk.ask(address=ELSEWHERE)
    count = select(func.count()).select_from(VerificationRow)
    for days, left in ((1, 2), (2, 1), (88, 0)):
        desk.world.clock.advance(days=days)
        await forget_codes(desk.world.db)
        assert await desk.world.db.read(lambda tx: tx.scalar(count)) == left


def test_codes_are_uniform() -> None:
    codes = [new_code() for _ in range(20_000)]
    assert all(len(code) == 6 and code.isdecimal() for code in codes)
    for place in range(6):
        counts = Counter(code[place] for code in codes)
        chi_square = sum((counts[digit] - 2000) ** 2 / 2000 for digit in "0123456789")
        assert chi_square < 40  # p < 0.00001 for 9 degrees of freedom


@pytest.mark.parametrize(
    ("spelling", "phone"),
    [
        ("+49 170 1234567", "+491701234567"),
        ("0049 (0)170-1234567", "+491701234567"),
        ("+1 (415) 555-2671", "+14155552671"),
        ("+7 916 123-45-67", "+79161234567"),
        ("+447400123456", "+447400123456"),
    ],
)
def test_mobile_numbers_in_any_spelling_are_taken(spelling: str, phone: str) -> None:
    assert read_sign_in_phone(spelling) == phone


@pytest.mark.parametrize("text", ["", "+49", "01701234567", "anna", "+15550000000", "+4917012"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(PhoneInvalid):
        read_sign_in_phone(text)


@pytest.mark.parametrize(
    "phone",
    [
        "+493012345678",
        "+499001234567",
        "+18005551234",
        "+19005551234",
        "+447012345678",
        "+870773111632",
        "+881612345678",
        "+88213212345",
        "+979123456789",
    ],
)
def test_numbers_that_take_no_codes_are_refused(phone: str) -> None:
    with pytest.raises(PhoneNotSupported):
        read_sign_in_phone(phone)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("testclient", "testclient"),
    ],
)
def test_what_counts_as_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
