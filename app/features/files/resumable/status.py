"""Where an upload stands, and the file that it has become."""

from dataclasses import dataclass

from app.features.files.resumable.queries import find_upload
from app.features.files.resumable.upload import Upload, find_metadata
from app.features.files.uses import load_files
from app.features.files.views import FileView
from app.infra.cipher.keyring import user_key
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UserId
from app.kernel.problems import NotFound


@dataclass(frozen=True, slots=True)
class Standing:
    """`metadata` as it was sent; `file` only as long as it is there."""

    upload: Upload
    metadata: str
    file: FileView | None


async def get_standing(services: Services, *, owner_id: UserId, token: str) -> Standing:
    """Raises:
    NotFound: not_found; also where its metadata does not open.
    """

    async def work(tx: Tx) -> Standing:
        upload = await find_upload(tx, token, owner_id)
        if upload is None:
            raise NotFound
        key = await services.keyring.require(tx, user_key(owner_id))
        file_ids = [] if upload.file_id is None else [upload.file_id]
        files = await load_files(tx, services.keyring, file_ids)
        file = next(iter(files.values()), None)
        metadata = find_metadata(key, upload)
        if metadata is None:
            raise NotFound
        return Standing(upload, metadata, file)

    return await services.db.read(work)
