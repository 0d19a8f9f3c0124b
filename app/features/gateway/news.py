"""Who is told that somebody came or went: those who have a private chat with them or keep them as a
contact, as far as the person's privacy lets them know, and nobody on either side of a block.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update

from app.features.gateway.queries import list_private_peers
from app.features.presence.keeper import LINGER_SECONDS
from app.features.updates.signals import publish_signal
from app.features.users.models import ContactRow, UserRow
from app.features.users.policy import Relation, may_see_presence, parse_privacy
from app.features.users.relations import load_relations
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import UserId


class PresenceNews:
    """Told by one worker for each change; goes to all workers as signals."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def tell_online(self, user_id: UserId) -> None:
        async def work(tx: Tx) -> list[UserId]:
            return await find_audience(tx, user_id)

        audience = await self._services.db.read(work)
        self._publish("user_online", user_id, None, audience)

    async def tell_offline(self, user_ids: Sequence[UserId]) -> None:
        """The last socket of each of them closed `LINGER_SECONDS` ago."""
        seen_at = self._services.clock.now() - timedelta(seconds=LINGER_SECONDS)

        async def write(tx: Tx) -> None:
            await tx.execute(
                update(UserRow)
                .where(UserRow.id.in_(user_ids), UserRow.deleted_at.is_(None))
                .values(last_seen_at=seen_at)
            )

        async def read(tx: Tx) -> dict[UserId, list[UserId]]:
            return {user_id: await find_audience(tx, user_id) for user_id in user_ids}

        await self._services.db.write(write)
        for user_id, audience in (await self._services.db.read(read)).items():
            self._publish("user_offline", user_id, seen_at, audience)

    def _publish(
        self, signal: str, user_id: UserId, seen_at: datetime | None, audience: Sequence[UserId]
    ) -> None:
        if not audience:
            return
        data: dict[str, object] = {
            "user_id": user_id,
            "last_seen_at": None if seen_at is None else format_time(seen_at),
        }
        publish_signal(self._services.bus, type=signal, data=data, users=audience)


async def find_audience(tx: Tx, user_id: UserId) -> list[UserId]:
    """Whom this person's coming and going concerns, and who may know."""
    stored = await tx.first(
        select(UserRow.privacy).where(UserRow.id == user_id, UserRow.deleted_at.is_(None))
    )
    if stored is None:
        return []
    privacy = parse_privacy(stored.privacy)
    keepers = await tx.scalars(select(ContactRow.owner_id).where(ContactRow.user_id == user_id))
    candidates = {*keepers, *await list_private_peers(tx, user_id)} - {user_id}
    relations = await load_relations(tx, user_id, candidates)
    return [
        candidate
        for candidate, it in relations.items()
        if not it.is_blocked_by_them
        # The same relation, seen from the candidate.
        and may_see_presence(
            privacy,
            Relation(is_their_contact=it.is_my_contact, is_blocked_by_them=it.is_blocked_by_me),
        )
    ]
