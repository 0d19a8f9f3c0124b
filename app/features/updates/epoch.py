"""The epoch: a random word that changes when the log is no longer the one that clients know."""

import secrets

from sqlalchemy import select

from app.infra.database.database import Database
from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import insert_ignore, upsert

_NAME = "epoch"


async def load_epoch(tx: Tx) -> str:
    """The epoch of this log; empty before `ensure_epoch`."""
    return await tx.scalar(select(ServerStateRow.value).where(ServerStateRow.name == _NAME)) or ""


async def ensure_epoch(db: Database) -> str:
    """The epoch, made at the first start; workers that start together agree on one."""

    async def work(tx: Tx) -> str:
        row = {"name": _NAME, "value": secrets.token_urlsafe(12)}
        await insert_ignore(tx, ServerStateRow, [row], index=["name"])
        return await load_epoch(tx)

    return await db.write(work)


async def renew_epoch(tx: Tx) -> str:
    """Void every client's cursors: they read their state again."""
    row = {"name": _NAME, "value": secrets.token_urlsafe(12)}
    await upsert(tx, ServerStateRow, [row], index=["name"], update=["value"])
    return row["value"]
