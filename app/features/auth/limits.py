"""How many codes may be asked for and guessed.

A code costs money and wakes somebody up, so sending is limited. But whatever a stranger may do to a
phone's limit, they could do to lock its owner out. Hence:

- narrow limits hold for a pair of phone and address, wide ones for a phone alone. One address takes
  at most a third of a phone's day, so that no single stranger uses it up;
- an address from which the phone was signed in to before is no stranger's: the caps that others can
  fill (the phone's day, its number range, its country, the whole day) do not hold for it;
- guesses: the first two codes of a day that meet wrong guesses may be tried five times, further
ones
  once. All codes of a day that strangers can ask for come to fewer than 30 guesses, and a fresh
  code always has the one try that its owner needs.

Counted in the database, so that all workers count together, under advisory locks on what is
counted; but countries and the whole day are what everybody shares, and counted by the limiter.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, FromClause, exists, func, or_, select, true

from app.features.auth.models import VerificationRow
from app.infra.database.tx import Tx
from app.infra.limits.port import Draw, Limiter
from app.infra.limits.port import Quota as SharedQuota
from app.kernel.phones import find_region
from app.kernel.problems import RateLimited
from app.settings import SmsSettings

MAX_TRIES = 5
MAX_GUESSES_A_DAY = 30

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_PAIR_WINDOW = timedelta(minutes=10)
_PAIR_SHARE_OF_DAY = 3
_FULL_TRIES_UNTIL = 5
# A sign-in makes an address known for this long; see also the pruning of rows.
KNOWN_FOR = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a code to which phone, as blind indexes."""

    phone_index: bytes
    address_index: bytes
    prefix: str


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit as the caller may know it. `name` is None for those that count what others did."""

    name: str | None
    limit: int
    window: timedelta
    used: int
    resets_in: timedelta

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str | None
    counted: ColumnElement[bool]
    limit: int
    window: timedelta


async def take_quota(tx: Tx, limits: SmsSettings, *, asker: Asker) -> list[Quota]:
    """Check all limits with one more code counted in; locks what it counts to the end of `tx`.

    Raises:
        RateLimited: with Retry-After, and the headers of the limits that are the caller's own.
    """
    await tx.lock_names(
        [
            f"phone:{asker.phone_index.hex()}",
            f"address:{asker.address_index.hex()}",
            f"phones:{asker.prefix}",
        ]
    )
    quotas = await _read_quotas(tx, limits, asker)
    full = [quota for quota in quotas if quota.remaining == 0]
    if full:
        wait = max(quota.resets_in for quota in full)
        raise RateLimited(
            "Too many codes were asked for",
            retry_after=max(1, math.ceil(wait.total_seconds())),
            headers=limit_headers(quotas),
        )
    return [
        Quota(q.name, q.limit, q.window, q.used + 1, q.resets_in if q.used else q.window)
        for q in quotas
    ]


def is_known_caller(quotas: list[Quota]) -> bool:
    """Whether the caps that others can fill were left out."""
    return all(quota.name is not None for quota in quotas)


async def take_budget(limiter: Limiter, limits: SmsSettings, *, phone: str) -> None:
    """Draw one code on what a day may cost: in this country, and in all.

    Raises:
        RateLimited: with Retry-After; whose the limit is, is told to nobody.
    """
    seconds = int(_DAY.total_seconds())
    country = find_region(phone) or "001"
    # One after the other: what one country has used up must not use up the day of all.
    for quota, whose in (
        (SharedQuota("sms-country", limits.limit_per_country, seconds), country),
        (SharedQuota("sms-in-all", limits.limit_in_all, seconds), "all"),
    ):
        [standing] = await limiter.take([Draw(quota, whose, is_strict=True)])
        if not standing.is_allowed:
            wait = max(1, math.ceil(standing.reset_seconds))
            raise RateLimited("Too many codes were asked for", retry_after=wait)


def resend_after(quotas: list[Quota]) -> int:
    """Seconds until one more code may be asked for; 0: at once."""
    waits = [quota.resets_in for quota in quotas if quota.remaining == 0]
    return math.ceil(max(waits, default=timedelta()).total_seconds())


def limit_headers(quotas: list[Quota]) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11)."""
    own = [quota for quota in quotas if quota.name is not None]
    policies = [f'"{q.name}";q={q.limit};w={int(q.window.total_seconds())}' for q in own]
    states = [f'"{q.name}";r={q.remaining};t={math.ceil(q.resets_in.total_seconds())}' for q in own]
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


async def count_wrong_guesses(tx: Tx, *, phone_index: bytes, but: int) -> int:
    """Guesses of the last day at this phone's codes, those at `but` and right ones left out."""
    wrong = func.sum(VerificationRow.attempts)
    total = await tx.scalar(
        select(func.coalesce(wrong, 0)).where(
            VerificationRow.phone_index == phone_index,
            VerificationRow.created_at > tx.now - _DAY,
            VerificationRow.used_at.is_(None),
            VerificationRow.id != but,
        )
    )
    return int(total or 0)


def tries_allowed(wrong_elsewhere: int) -> int:
    """Tries of one code in all, after so many wrong guesses at the phone's other codes of the
    day.
    """
    if wrong_elsewhere >= MAX_GUESSES_A_DAY:
        return 0
    return MAX_TRIES if wrong_elsewhere <= _FULL_TRIES_UNTIL else 1


async def _read_quotas(tx: Tx, limits: SmsSettings, asker: Asker) -> list[Quota]:
    """One statement, the same for every phone and address, so that its time tells nothing."""
    row = VerificationRow
    same_phone = row.phone_index == asker.phone_index
    same_address = row.address_index == asker.address_index
    # A code that could not be sent is not held against the person, only against the budget.
    was_not_failed = or_(row.replaced_at.is_(None), row.code_hash.is_not(None))
    pair = same_phone & same_address & was_not_failed
    pair_a_day = max(limits.limit_per_phone + 1, limits.limit_per_day // _PAIR_SHARE_OF_DAY)
    rules = (
        _Rule("phone", pair, limits.limit_per_phone, _PAIR_WINDOW),
        _Rule("phone-day", pair, pair_a_day, _DAY),
        _Rule("address", same_address, limits.limit_per_address, _HOUR),
        _Rule(None, same_phone, limits.limit_per_day, _DAY),
        _Rule(None, row.prefix == asker.prefix, limits.limit_per_prefix, _HOUR),
        _Rule(None, row.prefix == asker.prefix, limits.limit_per_prefix_day, _DAY),
    )
    is_known = exists().where(
        same_phone,
        same_address,
        row.used_at.is_not(None),
        row.created_at > tx.now - KNOWN_FOR,
    )
    usages = [_usage(rule, since=tx.now - rule.window) for rule in rules]
    joined = usages[0]
    for usage in usages[1:]:
        joined = joined.join(usage, true())
    columns = [column for usage in usages for column in (usage.c.used, usage.c.oldest)]
    found = await tx.first(select(is_known, *columns).select_from(joined))
    values = list(found or ())
    quotas = [
        _quota(rule, used=values[1 + 2 * place], oldest=values[2 + 2 * place], now=tx.now)
        for place, rule in enumerate(rules)
    ]
    return [quota for quota in quotas if quota.name is not None or not values[0]]


def _usage(rule: _Rule, *, since: datetime) -> FromClause:
    """The newest `limit` entries decide: with the oldest of them the next place comes free."""
    newest = (
        select(VerificationRow.created_at)
        .where(rule.counted, VerificationRow.created_at > since)
        .order_by(VerificationRow.created_at.desc())
        .limit(rule.limit)
        .subquery()
    )
    used, oldest = func.count().label("used"), func.min(newest.c.created_at).label("oldest")
    return select(used, oldest).select_from(newest).subquery()


def _quota(rule: _Rule, *, used: int, oldest: datetime | None, now: datetime) -> Quota:
    resets_in = rule.window if oldest is None else oldest + rule.window - now
    return Quota(rule.name, rule.limit, rule.window, used, resets_in)
