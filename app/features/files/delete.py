"""Deleting a file that nothing shows."""

from sqlalchemy import exists, select, update

from app.features.files.errors import FileInUse, FileNotFound
from app.features.files.models import FileRow, FileUseRow
from app.features.files.queries import lock_files
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import UserId


async def delete_file(db: Database, *, owner_id: UserId, file_type: str, name: str) -> None:
    """From the commit on nobody reads it; its bytes go by a job.

    Raises:
        FileNotFound: file_not_found, also to everyone but its uploader.
        FileInUse: file_in_use
    """

    async def work(tx: Tx) -> None:
        wanted = (
            FileRow.name == name,
            FileRow.file_type == file_type,
            FileRow.owner_id == owner_id,
        )
        file_id = await tx.scalar(select(FileRow.id).where(*wanted))
        if file_id is None or not await lock_files(tx, [file_id]):
            raise FileNotFound
        if await tx.scalar(select(exists().where(FileUseRow.file_id == file_id))):
            raise FileInUse
        await tx.execute(update(FileRow).where(FileRow.id == file_id).values(ended_at=tx.now))

    await db.write(work)
