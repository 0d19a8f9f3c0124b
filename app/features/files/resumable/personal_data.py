"""What is kept of a person's uploads that are no files yet, erased and exported."""

from collections.abc import Sequence

from app.features.files.resumable.metadata import parse_metadata
from app.features.files.resumable.queries import expire_uploads_of, list_uploads_of
from app.features.files.resumable.terminate import end_uploads_of
from app.features.files.resumable.upload import find_metadata
from app.infra.cipher.keyring import user_key
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.clock import format_time
from app.kernel.ids import UserId
from app.transport.personal_data import Leaver, Page, Section, in_pages

_PAGE = 200


class UploadsPersonalData:
    """Answers `transport.personal_data.PersonalData`."""

    async def forget(self, tx: Tx, services: Services, leaver: Leaver) -> None:
        """Nobody finds them from here on, and who is sending to one is refused."""
        await expire_uploads_of(tx, leaver.user_id)

    async def erase(self, services: Services, leaver: Leaver) -> None:
        """One after the other: each may have thousands of parts."""
        await end_uploads_of(services, leaver.user_id)

    def export(self, services: Services, user_id: UserId) -> Sequence[Section]:
        """What was said of them; their bytes can be read when they are files."""
        pages = in_pages(services.db, lambda tx, after: _page(tx, services, user_id, after))
        return [Section("uploads", pages)]


async def _page(tx: Tx, services: Services, user_id: UserId, after: int) -> Page:
    uploads = await list_uploads_of(tx, user_id, behind=after, limit=_PAGE)
    key = await services.keyring.require(tx, user_key(user_id))
    items: list[object] = []
    for upload in uploads:
        metadata = find_metadata(key, upload)
        name = None if metadata is None else parse_metadata(metadata).filename
        items.append(
            {
                "state": upload.state,
                "original_name": name,
                "offset": upload.received,
                "length": upload.length,
                "created_at": format_time(upload.created_at),
                "expires_at": format_time(upload.expires_at),
            }
        )
    return items, uploads[-1].id if len(uploads) == _PAGE else None
