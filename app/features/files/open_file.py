"""A file as somebody may read it, whichever door they come by: its bytes, a range, a thumbnail, or only its head."""

from dataclasses import dataclass

from app.features.files.errors import FileNotFound
from app.features.files.objects import StoredObject
from app.features.files.policy import served_type
from app.features.files.queries import StoredFile, find_stored
from app.features.files.rules import FileAudience
from app.features.files.views import find_details
from app.infra.cipher.keyring import blob_key
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import BlobId, UserId

_THUMBNAIL_TYPE = "image/webp"


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """`etag` without its quotes: the bytes of a name never change. `is_shown`: browsers may show it in place."""

    blob_id: BlobId
    stored: StoredObject
    media_type: str
    is_shown: bool
    original_name: str
    etag: str


async def open_file(
    services: Services,
    *,
    viewer_id: UserId,
    file_type: str,
    name: str,
    thumbnail: str | None = None,
) -> OpenedFile:
    """Raises:
    FileNotFound: file_not_found, also where it exists and nothing shows it to the viewer.
    """

    async def work(tx: Tx) -> OpenedFile:
        found = await find_stored(tx, name, thumbnail=thumbnail)
        if found is None or found.file_type != file_type:
            raise FileNotFound
        if found.owner_id != viewer_id and not await _is_visible(tx, services, found, viewer_id):
            raise FileNotFound
        return await _open(tx, services, found, name=name, thumbnail=thumbnail)

    return await services.db.read(work)


async def _is_visible(tx: Tx, services: Services, found: StoredFile, viewer_id: UserId) -> bool:
    """Whether the viewer may see anything that shows it."""
    for rule in services.rules.all(FileAudience):
        if await rule.is_shown_to(tx, viewer_id, found.id):
            return True
    return False


async def _open(
    tx: Tx, services: Services, found: StoredFile, *, name: str, thumbnail: str | None
) -> OpenedFile:
    key = await services.keyring.require(tx, blob_key(found.blob_id))
    details = find_details(key, found.id, found.details)
    media_type, is_shown = served_type(found.file_type, found.mime_type)
    etag = name.partition(".")[0]
    if thumbnail is not None:
        media_type, is_shown, etag = _THUMBNAIL_TYPE, True, f"{etag}.{thumbnail}"
    return OpenedFile(
        blob_id=found.blob_id,
        stored=StoredObject(
            storage=services.storage,
            name=found.object_name,
            cipher=key.object_cipher(found.object_name),
            size=found.size,
            chunk_size=found.chunk_size,
        ),
        media_type=media_type,
        is_shown=is_shown,
        original_name=name if details is None else details["original_name"],
        etag=etag,
    )
