"""The search of the storage for what nothing refers to: what a kill at the worst moment may have left.

Everything that is written is noted before, so that this finds nothing as a rule.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from app.features.files.doomed import doom_objects
from app.features.files.installation import claim_storage, list_known
from app.infra.database.database import Database
from app.infra.database.turns import take_turn
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.infra.storage.names import MARKER

SWEEP_EVERY: Final = timedelta(days=1)
# Younger objects may be of uploads that are still under way.
LEAST_AGE: Final = timedelta(days=1)

_BEGAN_AT: Final = "storage_swept_at"
_BATCH: Final = 500
# More of nobody's than a kill ever left, and than this share of all, is no litter.
MOST_UNKNOWN: Final = 100
_MOST_UNKNOWN_SHARE: Final = 0.05

log = structlog.stdlib.get_logger("app.files")


async def sweep_storage(services: Services, *, before: datetime) -> int:
    """Doom every object that was written before and that no row names. How many; none where they are so many
    that something else must be wrong: another storage than that of this database, or a database that lost rows.

    Raises:
        SettingsError: the storage is another's.
    """
    db, storage = services.db, services.storage
    await claim_storage(db, storage, services.settings.files)
    listed = unknown = 0
    async for names in _list_old(services, before=before):
        listed += len(names)
        known = await db.read(lambda tx, names=names: list_known(tx, names))
        unknown += len(names) - len(known)
    if unknown > MOST_UNKNOWN and unknown > listed * _MOST_UNKNOWN_SHARE:
        log.error("sweep_refused", unknown_count=unknown, listed_count=listed)
        return 0
    doomed = 0
    if unknown:
        async for names in _list_old(services, before=before):
            doomed += await _doom_unknown(db, names)
    return doomed


async def claim_sweep(db: Database) -> bool:
    """Whether it is time for it, and no other worker took it."""
    return await db.write(lambda tx: take_turn(tx, _BEGAN_AT, every=SWEEP_EVERY))


async def _list_old(services: Services, *, before: datetime) -> AsyncGenerator[Sequence[str]]:
    batch: list[str] = []
    async for name, written_at in services.storage.list_names():
        if written_at < before and name != MARKER:
            batch.append(name)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def _doom_unknown(db: Database, names: Sequence[str]) -> int:
    async def work(tx: Tx) -> int:
        known = await list_known(tx, names)
        unknown = [name for name in names if name not in known]
        await doom_objects(tx, unknown)
        return len(unknown)

    return await db.write(work)
