"""What sending costs: of the account, of the chat, and of the moment."""

import math

from app.features.messages.schemas import SendMessage
from app.infra.limits.port import Draw
from app.infra.services import Services
from app.kernel.ids import UserId
from app.transport.limits import LimitClass, chat_quota, list_quotas, take_draws

# Forwarding a hundred at once is one act of a person, and a hundred messages for all others.
_FORWARDS_A_SEND = 10


async def count_send(services: Services, user_id: UserId, body: SendMessage) -> dict[str, str]:
    """Draw on the limits of sends, over HTTP and in frames alike; gives the headers that tell of it.

    Raises:
        RateLimited: rate_limited
    """
    settings = services.settings.limits
    count = 1
    if body.forward_from is not None:
        count = math.ceil(len(body.forward_from.message_ids) / _FORWARDS_A_SEND)
    draws = [
        Draw(quota, str(user_id), cost=min(count, quota.limit))
        for quota in list_quotas(settings, LimitClass.SENDS)
    ]
    in_chat = chat_quota(settings)
    draws.append(Draw(in_chat, f"{user_id}-{body.chat_id}", cost=min(count, in_chat.limit)))
    return await take_draws(services, draws, user_id=user_id)
