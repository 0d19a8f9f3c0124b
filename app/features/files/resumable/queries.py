"""The statements of resumable uploads."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, false, insert, literal, select, update

from app.features.files.models import DoomedObjectRow, UploadPartRow, UploadRow
from app.features.files.pauses import pause_after
from app.features.files.resumable.upload import (
    FINISH_LEASE,
    FINISHING,
    Part,
    Upload,
    upload_key,
)
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.kernel.ids import UploadId, UserId

# In the order of `Upload`.
_COLUMNS = (
    UploadRow.id,
    UploadRow.owner_id,
    UploadRow.token,
    UploadRow.state,
    UploadRow.length,
    UploadRow.received,
    UploadRow.parts_count,
    UploadRow.details,
    UploadRow.file_id,
    UploadRow.failure,
    UploadRow.created_at,
    UploadRow.expires_at,
    UploadRow.setbacks,
)


async def find_upload(tx: Tx, token: str, owner_id: UserId) -> Upload | None:
    """Neither somebody else's nor one that has expired."""
    mine = (UploadRow.token == token) & (UploadRow.owner_id == owner_id)
    return await _find(tx, mine & (UploadRow.expires_at > tx.now))


async def find_upload_by_id(tx: Tx, upload_id: UploadId) -> Upload | None:
    return await _find(tx, UploadRow.id == upload_id)


async def lock_upload(tx: Tx, upload_id: UploadId) -> Upload | None:
    """Nobody else changes it until the transaction ends. It may have expired."""
    return await _find(tx, UploadRow.id == upload_id, lock=True)


async def list_expired(tx: Tx, *, limit: int) -> Sequence[UploadId]:
    statement = select(UploadRow.id).where(UploadRow.expires_at <= tx.now)
    return await tx.scalars(statement.order_by(UploadRow.expires_at).limit(limit))


async def list_uploads_of(tx: Tx, owner_id: UserId, *, behind: int, limit: int) -> list[Upload]:
    """In the order of their ids, expired ones too."""
    mine = (UploadRow.owner_id == owner_id) & (UploadRow.id > behind)
    rows = await tx.all(select(*_COLUMNS).where(mine).order_by(UploadRow.id).limit(limit))
    return [Upload(*row) for row in rows]


async def expire_uploads_of(tx: Tx, owner_id: UserId) -> None:
    """Nobody finds them any more; what they are made of goes later."""
    mine = (UploadRow.owner_id == owner_id) & (UploadRow.expires_at > tx.now)
    await tx.execute(update(UploadRow).where(mine).values(expires_at=tx.now))


async def is_finish_due(tx: Tx) -> bool:
    statement = select(UploadRow.id).where(UploadRow.finish_at <= tx.now).limit(1)
    return await tx.scalar(statement) is not None


async def take_unfinished(tx: Tx) -> UploadId | None:
    """One that is complete and that nobody makes a file of; it is the caller's for `FINISH_LEASE`."""
    statement = (
        select(UploadRow.id)
        .where(UploadRow.finish_at <= tx.now)
        .order_by(UploadRow.finish_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    upload_id = await tx.scalar(statement)
    if upload_id is not None:
        await renew_finish(tx, upload_id)
    return upload_id


async def renew_finish(tx: Tx, upload_id: UploadId) -> None:
    mine = (UploadRow.id == upload_id) & (UploadRow.state == FINISHING)
    await tx.execute(update(UploadRow).where(mine).values(finish_at=tx.now + FINISH_LEASE))


async def put_off_finish(tx: Tx, upload_id: UploadId) -> None:
    """Nobody is at it any more; somebody tries again, the later the more often it was in vain."""
    upload = await lock_upload(tx, upload_id)
    if upload is not None and upload.state == FINISHING:
        finish_at, setbacks = tx.now + pause_after(upload.setbacks), upload.setbacks + 1
        await change_upload(tx, upload_id, finish_at=finish_at, setbacks=setbacks)


async def change_upload(tx: Tx, upload_id: UploadId, **values: object) -> None:
    await tx.execute(update(UploadRow).where(UploadRow.id == upload_id).values(values))


async def add_parts(tx: Tx, upload_id: UploadId, parts: Sequence[Part]) -> None:
    rows = [
        {
            "upload_id": upload_id,
            "position": part.position,
            "size": part.size,
            "object_name": part.object_name,
            "chunk_size": part.chunk_size,
        }
        for part in parts
    ]
    await tx.execute(insert(UploadPartRow), rows)


async def list_parts(tx: Tx, upload_id: UploadId, *, behind: int, limit: int) -> list[Part]:
    """In their order, from the first one behind this position on."""
    rows = await tx.all(
        select(
            UploadPartRow.position,
            UploadPartRow.size,
            UploadPartRow.object_name,
            UploadPartRow.chunk_size,
        )
        .where(UploadPartRow.upload_id == upload_id, UploadPartRow.position > behind)
        .order_by(UploadPartRow.position)
        .limit(limit)
    )
    return [Part(*row) for row in rows]


async def end_parts(tx: Tx, keyring: Keyring, upload_id: UploadId) -> None:
    """Shred them: their key now, their objects by the job of doomed ones."""
    is_part = UploadPartRow.upload_id == upload_id
    now = literal(tx.now, DoomedObjectRow.due_at.type)
    doomed = select(UploadPartRow.object_name, false(), now).where(is_part)
    columns = [DoomedObjectRow.object_name, DoomedObjectRow.is_taken, DoomedObjectRow.due_at]
    await tx.execute(insert(DoomedObjectRow).from_select(columns, doomed))
    await tx.execute(delete(UploadPartRow).where(is_part))
    await keyring.destroy(tx, [upload_key(upload_id)])


async def delete_upload(tx: Tx, upload_id: UploadId) -> None:
    await tx.execute(delete(UploadRow).where(UploadRow.id == upload_id))


async def _find(tx: Tx, where: ColumnElement[bool], *, lock: bool = False) -> Upload | None:
    statement = select(*_COLUMNS).where(where)
    row = await tx.first(statement.with_for_update(key_share=True) if lock else statement)
    return None if row is None else Upload(*row)
