"""Ending an upload: its parts are shredded and its name is one that never was."""

from app.features.files.resumable.queries import (
    delete_upload,
    end_parts,
    find_upload,
    list_expired,
    list_uploads_of,
    lock_upload,
)
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UploadId, UserId
from app.kernel.problems import NotFound

_BATCH = 50


async def terminate_upload(services: Services, *, owner_id: UserId, token: str) -> None:
    """Whoever is sending to it is refused at the next part. The file that it has become already stays.

    Raises:
        NotFound: not_found
    """

    async def work(tx: Tx) -> None:
        upload = await find_upload(tx, token, owner_id)
        if upload is None or not await end_upload(tx, services, upload.id):
            raise NotFound

    await services.db.write(work)


async def end_upload(tx: Tx, services: Services, upload_id: UploadId) -> bool:
    """False: somebody else was faster."""
    if await lock_upload(tx, upload_id) is None:
        return False
    await end_parts(tx, services.keyring, upload_id)
    await delete_upload(tx, upload_id)
    return True


async def end_expired_uploads(services: Services) -> None:
    """Each in a transaction of its own: one may have thousands of parts."""
    while ids := await services.db.read(lambda tx: list_expired(tx, limit=_BATCH)):
        for upload_id in ids:
            await services.db.write(lambda tx, it=upload_id: _end_if_expired(tx, services, it))


async def end_uploads_of(services: Services, owner_id: UserId) -> None:
    """All that a person has, whatever has become of them."""
    while uploads := await services.db.read(
        lambda tx: list_uploads_of(tx, owner_id, behind=0, limit=_BATCH)
    ):
        for upload in uploads:
            await services.db.write(lambda tx, it=upload.id: end_upload(tx, services, it))


async def _end_if_expired(tx: Tx, services: Services, upload_id: UploadId) -> None:
    """A part may have come in at the last moment."""
    upload = await lock_upload(tx, upload_id)
    if upload is not None and upload.expires_at <= tx.now:
        await end_upload(tx, services, upload_id)
