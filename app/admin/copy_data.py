"""Copies the whole installation from one database to the other, with a progress bar."""

import dataclasses
from collections.abc import Mapping

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.admin.opened import note_act
from app.features.updates.epoch import renew_epoch
from app.infra.database.copy import copy_rows, count_rows, open_source
from app.infra.database.database import open_database
from app.infra.database.migrate import migrate
from app.infra.database.process_lock import ProcessLock
from app.infra.database.tx import Tx
from app.kernel.clock import SystemClock
from app.settings import DatabaseSettings, Settings


def with_database(settings: Settings, *, database_type: str, url: str | None) -> Settings:
    """The same settings on another database."""
    values = {
        "DATABASE_TYPE": database_type,
        "DATABASE_URL": url,
        "DATABASE_POOL_SIZE": settings.database.pool_size,
    }
    return dataclasses.replace(settings, database=DatabaseSettings.model_validate(values))


async def copy_data(source: Settings, target: Settings) -> Mapping[str, tuple[int, str]]:
    """Carry all rows over; the server must not be running. Clients read their state anew (new epoch).

    Returns:
        Table -> (rows, checksum).

    Raises:
        CopyError: the target is not empty or did not verify; nothing was written.
        SecondProcessError: a server is using the source.
    """
    async with ProcessLock(source):
        await migrate(source)
        await migrate(target)
        database = open_database(target, SystemClock())
        try:
            async with open_source(source) as rows:
                counts = await count_rows(rows)
                with _progress_bar() as bar:
                    task = bar.add_task("copying", total=sum(counts.values()))

                    async def work(tx: Tx) -> Mapping[str, tuple[int, str]]:
                        bar.reset(task)
                        checksums = await copy_rows(
                            rows, tx, lambda _, count: bar.advance(task, count)
                        )
                        await renew_epoch(tx)
                        return checksums

                    copied = await database.write(work, timeout_seconds=24 * 3600)
            await note_act(target, database, "data_copied")
            return copied
        finally:
            await database.close()


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
