"""Beginning a resumable upload: who may, how large, and under which name it goes on."""

from sqlalchemy import insert

from app.features.files.errors import FileTooLarge
from app.features.files.models import UploadRow
from app.features.files.reservation import require_place
from app.features.files.resumable.metadata import Metadata
from app.features.files.resumable.queries import find_upload_by_id
from app.features.files.resumable.room import require_room
from app.features.files.resumable.upload import (
    FINISH_LEASE,
    FINISHING,
    RECEIVING,
    Upload,
    lifetime,
    make_token,
    seal_metadata,
    upload_key,
)
from app.features.updates.log import lock_scopes
from app.infra.cipher.keyring import user_key
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UploadId, UserId
from app.kernel.problems import NotFound
from app.kernel.scopes import user_scope


async def create_upload(
    services: Services, *, owner_id: UserId, length: int | None, metadata: Metadata
) -> Upload:
    """`length` None: it will be told with a later part. One of no bytes is complete at once.

    Raises:
        FileTooLarge, QuotaExceeded, TooManyUploads
    """
    settings = services.settings.files
    if (length or 0) > settings.largest_file:
        raise FileTooLarge(max_bytes=settings.largest_file)

    async def work(tx: Tx) -> Upload:
        # One at a time of one person, so that no two count the same.
        await lock_scopes(tx, [user_scope(owner_id)])
        await require_place(tx, settings, owner_id)
        await require_room(tx, services, owner_id, size=length or 0)
        (reserved,) = await tx.reserve_ids(UploadRow, 1)
        upload_id = UploadId(reserved)
        await services.keyring.create(tx, upload_key(upload_id))
        key = await services.keyring.require(tx, user_key(owner_id))
        row: dict[str, object] = {
            "id": upload_id,
            "owner_id": owner_id,
            "token": make_token(),
            "state": FINISHING if length == 0 else RECEIVING,
            "length": length,
            "received": 0,
            "parts_count": 0,
            "details": seal_metadata(key, upload_id, metadata.raw),
            "created_at": tx.now,
            "expires_at": tx.now + lifetime(services),
            "finish_at": tx.now + FINISH_LEASE if length == 0 else None,
        }
        await tx.execute(insert(UploadRow).values(row))
        upload = await find_upload_by_id(tx, upload_id)
        if upload is None:
            raise NotFound
        return upload

    return await services.db.write(work)
