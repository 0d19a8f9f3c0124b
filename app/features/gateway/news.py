"""Who is told that somebody came or went: those who have a private chat with them or keep them as a
contact, as far as the person's privacy lets them know, and nobody on either side of a block.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update

from app.features.gateway.queries import find_private_peers
from app.features.presence.keeper import LINGER_SECONDS
from app.features.updates.signals import publish_signal
from app.features.users.models import ContactRow, UserRow
from app.features.users.policy import may_see_presence, parse_privacy
from app.features.users.relations import Pair, load_relations_of_pairs
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import UserId

Audiences = dict[UserId, list[UserId]]
"""Of each person, those who are told of them."""


class PresenceNews:
    """Told by one worker for each change; goes to all workers as signals."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def tell_online(self, user_ids: Sequence[UserId]) -> None:
        audiences = await self._find_audiences(user_ids)
        self._publish("user_online", audiences, None)

    async def tell_offline(self, user_ids: Sequence[UserId]) -> None:
        """The last socket of each of them closed `LINGER_SECONDS` ago."""
        seen_at = self._services.clock.now() - timedelta(seconds=LINGER_SECONDS)

        async def write(tx: Tx) -> None:
            await tx.execute(
                update(UserRow)
                .where(UserRow.id.in_(user_ids), UserRow.deleted_at.is_(None))
                .values(last_seen_at=seen_at)
            )

        await self._services.db.write(write)
        audiences = await self._find_audiences(user_ids)
        # Whoever came back meanwhile was announced, or will be in a moment: this must not come behind it.
        back = await self._services.presence.online(user_ids)
        gone = {user_id: it for user_id, it in audiences.items() if user_id not in back}
        self._publish("user_offline", gone, seen_at)

    async def _find_audiences(self, user_ids: Sequence[UserId]) -> Audiences:
        async def work(tx: Tx) -> Audiences:
            return await find_audiences(tx, user_ids)

        return await self._services.db.read(work)

    def _publish(self, signal: str, audiences: Audiences, seen_at: datetime | None) -> None:
        last_seen_at = None if seen_at is None else format_time(seen_at)
        for user_id, audience in audiences.items():
            if audience:
                data = {"user_id": user_id, "last_seen_at": last_seen_at}
                publish_signal(self._services.bus, type=signal, data=data, users=audience)


async def find_audiences(tx: Tx, user_ids: Collection[UserId]) -> Audiences:
    """Whom the coming and going of each of these concerns, and who may know; in five statements."""
    rows = await tx.all(
        select(UserRow.id, UserRow.privacy).where(
            UserRow.id.in_(user_ids), UserRow.deleted_at.is_(None)
        )
    )
    privacies = {row.id: parse_privacy(row.privacy) for row in rows}
    keepers = await tx.all(
        select(ContactRow.owner_id, ContactRow.user_id).where(
            ContactRow.user_id.in_(list(privacies))
        )
    )
    pairs: set[Pair] = {(row.owner_id, row.user_id) for row in keepers}
    for user_id, peers in (await find_private_peers(tx, list(privacies))).items():
        pairs.update((peer, user_id) for peer in peers)
    relations = await load_relations_of_pairs(tx, pairs)
    audiences: Audiences = {}
    for (viewer, user_id), relation in sorted(relations.items()):
        if (
            viewer != user_id
            and not relation.is_blocked_by_me
            and may_see_presence(privacies[user_id], relation)
        ):
            audiences.setdefault(user_id, []).append(viewer)
    return audiences
