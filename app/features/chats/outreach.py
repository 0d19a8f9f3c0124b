"""How many people one account may turn to first: what spam is made of, and new accounts most of all."""

from datetime import timedelta

from app.features.chats.access import make_pair_key
from app.features.chats.queries import find_private_chat
from app.features.users.access import is_newcomer
from app.infra.limits.port import Draw, Quota
from app.infra.services import Services
from app.kernel.ids import UserId
from app.transport.limits import take_draws

_DAY = timedelta(days=1)
_NEW_FOR = timedelta(days=7)


async def count_first_contact(services: Services, user_id: UserId, peer_id: UserId) -> None:
    """Before a private chat: one that there is already, and one's own, cost nothing.

    Raises:
        RateLimited: rate_limited
    """
    if not services.settings.limits.enabled or user_id == peer_id:
        return
    pair_key = make_pair_key(user_id, peer_id)
    if await services.db.read(lambda tx: find_private_chat(tx, pair_key)) is None:
        await count_outreach(services, user_id)


async def count_outreach(services: Services, user_id: UserId) -> None:
    """Before a group, a channel, adding members, an invite link.

    Raises:
        RateLimited: rate_limited
    """
    settings = services.settings.limits
    if not settings.enabled:
        return
    is_new = await services.db.read(lambda tx: is_newcomer(tx, user_id, newer_than=_NEW_FOR))
    quota = Quota(
        "outreach-new" if is_new else "outreach",
        settings.outreach_new if is_new else settings.outreach,
        int(_DAY.total_seconds()),
    )
    await take_draws(services, [Draw(quota, str(user_id))], user_id=user_id)
