"""Bytes that turned out to be missing or damaged: no equal upload is taken for them any more, so that whoever sends
them again has them again.
"""

import contextlib

import structlog
from sqlalchemy import select, update

from app.features.files.models import BlobRow
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import BlobId
from app.kernel.problems import Problem

log = structlog.stdlib.get_logger("app.files")


async def distrust_bytes(db: Database, blob_id: BlobId) -> None:
    """Safe to repeat, and nothing to whoever reads meanwhile: where the database is away, the next reader finds it."""
    is_trusted = (BlobRow.id == blob_id, BlobRow.content_tag.is_not(None))

    async def look(tx: Tx) -> bool:
        return await tx.first(select(BlobRow.id).where(*is_trusted)) is not None

    async def work(tx: Tx) -> None:
        await tx.execute(update(BlobRow).where(*is_trusted).values(content_tag=None))

    with contextlib.suppress(Problem):
        # Read first: a client may ask for a damaged file again and again.
        if await db.read(look):
            await db.write(work)
            log.warning("bytes_distrusted", blob_id=blob_id)
