"""Work that one of all workers does now and then."""

from datetime import timedelta

from sqlalchemy import select

from app.infra.database.tables import ServerStateRow
from app.infra.database.tx import Tx
from app.infra.database.upsert import upsert
from app.kernel.clock import from_milliseconds, to_milliseconds


async def take_turn(tx: Tx, name: str, *, every: timedelta) -> bool:
    """Whether it is time for it, and no other worker took it. `name`: of the row that tells when it began last."""
    await tx.lock_names([name])
    statement = select(ServerStateRow.value).where(ServerStateRow.name == name)
    began_at = await tx.scalar(statement)
    if began_at is not None:
        age = tx.now - from_milliseconds(int(began_at))
        # One that begins in the future was begun by a wrong clock.
        if timedelta() <= age < every:
            return False
    row = {"name": name, "value": str(to_milliseconds(tx.now))}
    await upsert(tx, ServerStateRow, [row], index=["name"], update=["value"])
    return True
