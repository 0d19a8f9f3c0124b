"""The second factor: tries that no stranger takes from the owner, codes that count once, the queue."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from pyotp.totp import TOTP
from sqlalchemy import func, select

from app.features.auth import change_two_step as changes
from app.features.auth.change_two_step import Choice
from app.features.auth.errors import PasswordInvalid, PasswordTokenExpired
from app.features.auth.jobs import forget_tries
from app.features.auth.models import FactorTryRow, PasswordTokenRow, SecondFactorRow
from app.features.auth.password_tokens import create_password_token
from app.features.auth.passwords import PasswordHasher
from app.features.auth.prove import Proof
from app.features.auth.reset_two_step import reset_two_step
from app.features.auth.totp import find_step, new_secret
from app.features.auth.tries import (
    TRIES_AN_ADDRESS_A_DAY,
    TRIES_OF_STRANGERS_A_DAY,
)
from app.features.auth.verify_code import SignedIn
from app.features.auth.verify_password import SecondStep, verify_password
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.errors import FreshAuthenticationRequired, TokenRefused
from app.features.sessions.fresh import freshen, require_fresh
from app.features.sessions.open import SessionTokens
from app.infra.database.tx import Tx
from app.infra.hashing import HashingBusy, SlowHasher
from app.kernel.addresses import place_of
from app.kernel.ids import UserId
from app.kernel.problems import RateLimited
from tests.unit.features.conftest import LIMITS, World

PASSWORD = "correct horse battery"
HOME, ELSEWHERE = "192.0.2.7", "198.51.100.9"
WRONG = Proof(password="wrong horse")


@dataclass
class Account:
    """A person with a second password, and whoever tries to sign in."""

    world: World
    hasher: PasswordHasher
    user_id: UserId
    session: SessionTokens

    @property
    def caller(self) -> CurrentSession:
        return CurrentSession(self.user_id, self.session.session_id, self.world.clock.now())

    async def choose(self, choice: Choice) -> changes.ChangedTwoStep:
        return await changes.change_two_step(
            self.world.db,
            self.world.keyring,
            revocations=self.world.revocations,
            hasher=self.hasher,
            caller=self.caller,
            choice=choice,
            fresh_minutes=15,
        )

    async def token(self) -> str:
        async def work(tx: Tx) -> str:
            return await create_password_token(
                tx, self.world.keyring, user_id=self.user_id, device_name=None
            )

        return await self.world.db.write(work)

    async def verify(
        self, proof: Proof, *, token: str | None = None, address: str = ELSEWHERE
    ) -> SignedIn:
        return await verify_password(
            self.world.db,
            self.world.keyring,
            index=self.world.index,
            tokens=self.world.tokens,
            revocations=self.world.revocations,
            hasher=self.hasher,
            events=self.world.events,
            limits=LIMITS,
            step=SecondStep(password_token=token or await self.token(), proof=proof),
            address=address,
        )

    async def guess(self, count: int, *, address: str) -> int:
        """Wrong guesses until they are refused; how many were looked at."""
        for number in range(count):
            try:
                with pytest.raises(PasswordInvalid):
                    await self.verify(WRONG, address=address)
            except RateLimited:
                return number
        return count


@pytest.fixture
async def account(world: World) -> Account:
    user_id = await world.new_user()
    session = await world.open(user_id)
    made = Account(world, PasswordHasher(SlowHasher(rounds=4)), user_id, session)
    await made.choose(Choice(password=PASSWORD))
    return made


async def test_one_address_gets_ten_wrong_tries_a_day(account: Account) -> None:
    assert await account.guess(20, address=ELSEWHERE) == TRIES_AN_ADDRESS_A_DAY
    with pytest.raises(RateLimited) as caught:
        await account.verify(Proof(password=PASSWORD), address=ELSEWHERE)
    assert 0 < (caught.value.retry_after or 0) <= 86_400
    account.world.clock.advance(days=1)
    await account.verify(Proof(password=PASSWORD), address=ELSEWHERE)


async def test_strangers_take_nothing_from_an_address_that_proved_the_factor(
    account: Account,
) -> None:
    await account.verify(Proof(password=PASSWORD), address=HOME)
    looked_at = [await account.guess(20, address=f"203.0.113.{number}") for number in range(1, 6)]
    assert sum(looked_at) == TRIES_OF_STRANGERS_A_DAY
    with pytest.raises(RateLimited):
        await account.verify(Proof(password=PASSWORD), address=ELSEWHERE)
    await account.verify(Proof(password=PASSWORD), address=HOME)


async def test_parallel_guesses_are_counted_exactly(account: Account) -> None:
    tokens = [await account.token() for _ in range(20)]
    outcomes = await asyncio.gather(
        *(account.verify(WRONG, token=token) for token in tokens), return_exceptions=True
    )
    wrong = [outcome for outcome in outcomes if isinstance(outcome, PasswordInvalid)]
    assert len(wrong) == TRIES_AN_ADDRESS_A_DAY
    assert sum(isinstance(outcome, RateLimited) for outcome in outcomes) == 10


async def test_a_full_queue_costs_no_try(account: Account) -> None:
    token = await account.token()
    account.hasher = PasswordHasher(SlowHasher(rounds=4, max_waiting=0))
    for _ in range(8):
        with pytest.raises(HashingBusy):
            await account.verify(Proof(password=PASSWORD), token=token)
    account.hasher = PasswordHasher(SlowHasher(rounds=4))
    await account.verify(Proof(password=PASSWORD), token=token)


async def test_a_password_token_lives_ten_minutes(account: Account) -> None:
    token = await account.token()
    account.world.clock.advance(minutes=10)
    with pytest.raises(PasswordTokenExpired):
        await account.verify(Proof(password=PASSWORD), token=token)


async def test_a_session_is_fresh_for_a_while(account: Account) -> None:
    world, session_id = account.world, account.session.session_id

    async def check(tx: Tx) -> None:
        await require_fresh(tx, session_id=session_id, minutes=15)

    world.clock.advance(minutes=15)
    await world.db.read(check)
    world.clock.advance(seconds=1)
    with pytest.raises(FreshAuthenticationRequired):
        await world.db.read(check)
    with pytest.raises(FreshAuthenticationRequired):
        await account.choose(Choice(password="another fine horse"))
    await world.db.write(lambda tx: freshen(tx, session_id=session_id))
    await world.db.read(check)


async def test_an_ended_session_changes_nothing(account: Account) -> None:
    other = await account.world.open(account.user_id)
    await account.choose(Choice(password="another fine horse"))
    account.session = other
    with pytest.raises(TokenRefused):
        await account.choose(Choice(password=PASSWORD))


async def test_the_secret_of_an_app_waits_half_an_hour(account: Account) -> None:
    world = account.world
    pending = await changes.begin_totp(
        world.db, world.keyring, caller=account.caller, fresh_minutes=1440
    )
    totp = TOTP(pending.secret)
    world.clock.advance(minutes=30)
    await world.db.write(lambda tx: freshen(tx, session_id=account.session.session_id))
    with pytest.raises(PasswordInvalid):
        await account.choose(Choice(totp=totp.at(world.clock.now())))


async def test_a_reset_waits_and_lapses_by_the_clock(account: Account) -> None:
    world = account.world

    async def ask() -> bool:
        reset = await reset_two_step(
            world.db,
            world.keyring,
            revocations=world.revocations,
            password_token=await account.token(),
            waiting=timedelta(days=7),
        )
        return reset.is_done

    assert not await ask()
    world.clock.advance(days=14)
    assert not await ask()
    world.clock.advance(days=6, hours=23)
    assert not await ask()
    world.clock.advance(hours=1)
    half_signed_in = await account.token()
    assert await ask()
    assert world.revocations.is_denied(account.session.session_id)
    with pytest.raises(PasswordTokenExpired):
        await account.verify(Proof(password=PASSWORD), token=half_signed_in)


async def test_what_is_over_is_forgotten(account: Account) -> None:
    world = account.world
    await account.verify(Proof(password=PASSWORD))
    await account.guess(1, address=HOME)
    await account.token()
    await changes.begin_totp(world.db, world.keyring, caller=account.caller, fresh_minutes=1440)

    async def counts() -> tuple[int, ...]:
        async def work(tx: Tx) -> tuple[int, ...]:
            tables = (FactorTryRow, PasswordTokenRow)
            found = [await tx.scalar(select(func.count()).select_from(it)) or 0 for it in tables]
            pending = select(func.count()).where(SecondFactorRow.pending_secret.is_not(None))
            return (*found, await tx.scalar(pending) or 0)

        await forget_tries(world.db)
        return await world.db.read(work)

    assert await counts() == (2, 2, 1)
    world.clock.advance(days=2, seconds=1)
    assert await counts() == (1, 0, 0)
    world.clock.advance(days=88)
    assert await counts() == (0, 0, 0)


def test_codes_are_those_of_rfc_6238() -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # the 20 bytes of appendix B
    for seconds, code in ((59, "287082"), (1111111109, "081804"), (20000000000, "353130")):
        now = datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(seconds=seconds)
        assert find_step(secret, code, now=now, after=None) == seconds // 30


def test_a_code_counts_one_step_off_and_once(world: World) -> None:
    secret = new_secret()
    totp, now = TOTP(secret), world.clock.now()
    step = int(now.timestamp()) // 30
    for off, found in ((-2, None), (-1, step - 1), (0, step), (1, step + 1), (2, None)):
        code = totp.generate_otp(step + off)
        assert find_step(secret, code, now=now, after=None) == found
    assert find_step(secret, totp.generate_otp(step), now=now, after=step) is None
    assert find_step(secret, totp.generate_otp(step - 1), now=now, after=step) is None
    assert find_step(secret, totp.generate_otp(step + 1), now=now, after=step) == step + 1


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.1", "192.0.x.x"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:x"),
        ("::ffff:192.0.2.1", "192.0.x.x"),
        ("testclient", None),
    ],
)
def test_a_place_is_a_part_of_the_address(address: str, place: str | None) -> None:
    assert place_of(address) == place
