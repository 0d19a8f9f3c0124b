"""The length of an upload that was begun without one."""

from app.features.files.errors import FileTooLarge
from app.features.files.resumable.protocol import invalid
from app.features.files.resumable.queries import change_upload, find_upload_by_id, lock_upload
from app.features.files.resumable.room import require_room
from app.features.files.resumable.upload import FINISH_LEASE, FINISHING, RECEIVING, Upload
from app.features.updates.log import lock_scopes
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.problems import NotFound
from app.kernel.scopes import user_scope


async def tell_length(services: Services, upload: Upload, length: int) -> Upload:
    """Once told it never changes; it may be told again.

    Raises:
        UploadHeaderInvalid: it is another than before, or less than what has come
        FileTooLarge, QuotaExceeded
        NotFound: it was terminated meanwhile
    """
    settings = services.settings.files
    if length > settings.largest_file:
        raise FileTooLarge(max_bytes=settings.largest_file)

    async def work(tx: Tx) -> Upload:
        await lock_scopes(tx, [user_scope(upload.owner_id)])
        found = await lock_upload(tx, upload.id)
        if found is None or found.expires_at <= tx.now:
            raise NotFound
        if found.length not in (None, length) or found.received > length:
            raise invalid("Upload-Length is another than before, or less than what has come")
        if found.length is not None or found.state != RECEIVING:
            return found
        await require_room(tx, services, upload.owner_id, size=length, beside=upload.id)
        values: dict[str, object] = {"length": length}
        if found.received == length:
            values |= {"state": FINISHING, "finish_at": tx.now + FINISH_LEASE}
        await change_upload(tx, upload.id, **values)
        changed = await find_upload_by_id(tx, upload.id)
        if changed is None:
            raise NotFound
        return changed

    return await services.db.write(work)
