"""What is limited: the classes, how much of each, and the one function that draws, for requests and frames.

Each class counts by itself. Who has signed in is counted by account, everybody else by address
(IPv6: by /64), so that nobody uses up the limit of somebody else.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum

from app.infra.limits.port import Draw, Quota, Standing
from app.infra.services import Services
from app.kernel.addresses import network_of
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
from app.kernel.problems import RateLimited
from app.settings import LimitSettings

_MINUTE = 60
_SIGN_IN_SECONDS = 600
_HOUR = 3600
_BURST_SECONDS = 10


class LimitClass(StrEnum):
    """A class of calls. A route names it with `@limited_by`, a frame in its `FrameKind`."""

    API = "api"
    """Every route that names no other."""
    SIGN_IN = "sign-in"
    """Asking for codes; by address. See also `features.auth.limits`, which count what is sent."""
    CODE_CHECKS = "code-checks"
    """Trying codes and passwords; by address."""
    SEARCH = "search"
    CONTACT_IMPORT = "contact-import"
    SENDS = "sends"
    """Messages. The slice draws itself: it knows the chat and how many they are."""
    TYPING = "typing"
    READS = "reads"
    CATCH_UP = "catch-up"
    """Difference and resume."""
    CALLS = "calls"
    SOCKETS = "sockets"
    """Opening sockets."""
    UPLOADS = "uploads"
    UPLOAD_PARTS = "upload-parts"
    DOWNLOADS = "downloads"


_BY_ADDRESS = frozenset({LimitClass.SIGN_IN, LimitClass.CODE_CHECKS})


def is_by_address(limit: LimitClass) -> bool:
    """Whether it counts by address even who has signed in. These guard secrets: they are strict."""
    return limit in _BY_ADDRESS


def list_quotas(settings: LimitSettings, limit: LimitClass) -> tuple[Quota, ...]:
    """The quotas of a class that hold for an account or address as a whole."""
    match limit:
        case LimitClass.API:
            return (Quota(limit, settings.requests, settings.window_seconds),)
        case LimitClass.SENDS:
            return (
                Quota(limit, settings.sends, _MINUTE),
                Quota("sends-burst", settings.sends_burst, _BURST_SECONDS),
            )
        case LimitClass.SIGN_IN:
            return (Quota(limit, settings.sign_in, _SIGN_IN_SECONDS),)
        case LimitClass.CODE_CHECKS:
            return (Quota(limit, settings.code_checks, _SIGN_IN_SECONDS),)
        case LimitClass.CONTACT_IMPORT:
            return (Quota(limit, settings.contact_import, _HOUR),)
        case _:
            return (Quota(limit, _a_minute(settings)[limit], _MINUTE),)


def chat_quota(settings: LimitSettings) -> Quota:
    """What one account may send to one chat."""
    return Quota("sends-chat", settings.sends_per_chat, _MINUTE)


async def take(
    services: Services, limit: LimitClass, *, user_id: UserId | None, address: str = ""
) -> dict[str, str]:
    """Draw one call; gives the headers that tell where the caller stands.

    `address`: of a caller without an account, or for the classes that count by address.

    Raises:
        RateLimited: rate_limited, with Retry-After and the same headers.
    """
    draws = list_draws(services, limit, user_id=user_id, address=address)
    return await take_draws(services, draws, user_id=user_id)


def list_draws(
    services: Services, limit: LimitClass, *, user_id: UserId | None, address: str = ""
) -> list[Draw]:
    """One call of a class."""
    if user_id is None or is_by_address(limit):
        # Addresses are personal: Redis sees what tells nothing.
        whose = f"address-{services.index.address(network_of(address)).hex()}"
    else:
        whose = str(user_id)
    quotas = list_quotas(services.settings.limits, limit)
    return [Draw(quota, whose, is_strict=is_by_address(limit)) for quota in quotas]


async def take_draws(
    services: Services, draws: Sequence[Draw], *, user_id: UserId | None
) -> dict[str, str]:
    """As `take`, for draws of one's own making.

    Raises:
        RateLimited
    """
    if not services.settings.limits.enabled:
        return {}
    standings = await services.limiter.take(draws)
    _refuse(services, standings, user_id=user_id)
    return render_standings(standings)


def require_unspent(services: Services, draws: Sequence[Draw], *, user_id: UserId) -> None:
    """Refuse at once, without counting, who is known to have used these up: before a body is read.

    Raises:
        RateLimited
    """
    if services.settings.limits.enabled:
        _refuse(services, services.limiter.find_refusals(draws), user_id=user_id)


def is_spent(services: Services, address: str) -> bool:
    """Whether this worker knows that an address has used up what it has before sign-in."""
    draws = list_draws(services, LimitClass.API, user_id=None, address=address)
    return services.settings.limits.enabled and bool(services.limiter.find_refusals(draws))


def render_standings(standings: Sequence[Standing]) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11)."""
    policies = [f'"{s.quota.name}";q={s.quota.limit};w={s.quota.window_seconds}' for s in standings]
    states = [
        f'"{s.quota.name}";r={s.remaining};t={max(0, math.ceil(s.reset_seconds))}'
        for s in standings
    ]
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def _refuse(services: Services, standings: Sequence[Standing], *, user_id: UserId | None) -> None:
    refused = [standing for standing in standings if not standing.is_allowed]
    if not refused:
        return
    worst = max(refused, key=lambda standing: standing.reset_seconds)
    services.events.record(
        SecurityEvent("rate_limited", user_id, details={"limit": worst.quota.name})
    )
    refusal = RateLimited(
        retry_after=max(1, math.ceil(worst.reset_seconds)),
        headers=render_standings(standings),
        limit=worst.quota.name,
    )
    refusal.is_recorded = True
    raise refusal


def _a_minute(settings: LimitSettings) -> Mapping[LimitClass, int]:
    return {
        LimitClass.SEARCH: settings.search,
        LimitClass.TYPING: settings.typing,
        LimitClass.READS: settings.reads,
        LimitClass.CATCH_UP: settings.catch_up,
        LimitClass.CALLS: settings.calls,
        LimitClass.SOCKETS: settings.sockets,
        LimitClass.UPLOADS: settings.uploads,
        LimitClass.UPLOAD_PARTS: settings.upload_parts,
        LimitClass.DOWNLOADS: settings.downloads,
    }
