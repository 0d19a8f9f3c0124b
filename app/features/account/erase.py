"""Erasing what deleted accounts left in chats, step by step in the background.

Progress lies in what is gone already, so a worker that is killed leaves nothing half done: another
takes its account up as soon as the lease has run out.
"""

from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, select, update

from app.features.account.delete_account import forget
from app.features.account.models import ErasureRow
from app.features.updates.log import lock_scopes
from app.infra.database.database import LONG_SECONDS
from app.infra.database.lease import keep_lease
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.scopes import user_scope
from app.transport.feature import Job
from app.transport.personal_data import Leaver, PersonalData

# A request that another worker let in just before it heard of the deletion may still write something:
# no access token outlives its session by more than some seconds, no transaction lives longer than 30.
SETTLED_AFTER = timedelta(seconds=60)

_LEASE = timedelta(seconds=15)
_RENEWED_EVERY_SECONDS = 5.0

log = structlog.stdlib.get_logger("app.account")


async def erase_accounts(services: Services) -> None:
    """Work on what is due until nothing is."""
    while await services.db.read(_is_due, timeout_seconds=LONG_SECONDS):
        leaver = await services.db.write(_take, timeout_seconds=LONG_SECONDS)
        if leaver is None:
            return
        begun_at = services.clock.now()
        log.info("erasure_begun", user_id=leaver.user_id)
        # Whoever else takes it up meanwhile does the same again, which harms nothing.
        async with keep_lease(
            services.db,
            lambda tx, leaver=leaver: _renew(tx, leaver),
            every_seconds=_RENEWED_EVERY_SECONDS,
        ):
            for rule in reversed(services.rules.all(PersonalData)):
                await rule.erase(services, leaver)
        await _end_pass(services, leaver, begun_at)


async def _is_due(tx: Tx) -> bool:
    statement = select(ErasureRow.user_id).where(ErasureRow.due_at <= tx.now).limit(1)
    return await tx.scalar(statement) is not None


async def _take(tx: Tx) -> Leaver | None:
    row = await tx.first(
        select(ErasureRow.user_id, ErasureRow.keep_messages)
        .where(ErasureRow.due_at <= tx.now)
        .order_by(ErasureRow.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if row is None:
        return None
    leaver = Leaver(user_id=row.user_id, keep_messages=row.keep_messages)
    await _renew(tx, leaver)
    return leaver


async def _renew(tx: Tx, leaver: Leaver) -> None:
    mine = ErasureRow.user_id == leaver.user_id
    await tx.execute(update(ErasureRow).where(mine).values(due_at=tx.now + _LEASE))


async def _end_pass(services: Services, leaver: Leaver, begun_at: datetime) -> None:
    """It is done after a pass that began when nothing could be added any more."""

    async def work(tx: Tx) -> bool:
        await lock_scopes(tx, [user_scope(leaver.user_id)])
        mine = ErasureRow.user_id == leaver.user_id
        asked_at = await tx.scalar(select(ErasureRow.asked_at).where(mine))
        if asked_at is None:
            return False
        await forget(tx, services, leaver)
        settled_at = asked_at + SETTLED_AFTER
        if begun_at < settled_at:
            await tx.execute(update(ErasureRow).where(mine).values(due_at=settled_at))
            return False
        await tx.execute(delete(ErasureRow).where(mine))
        return True

    if await services.db.write(work, timeout_seconds=LONG_SECONDS):
        log.info("account_erased", user_id=leaver.user_id)


JOBS = (Job("erase_accounts", timedelta(seconds=1), erase_accounts),)
