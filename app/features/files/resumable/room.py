"""How much a person may still bring: judged when an upload begins, when it tells its length, and, where it has told
none, as its bytes come. From then on the room is its own until it is a file or nothing.
"""

from app.features.files.objects import choose_chunk_size
from app.features.files.policy import require_fit
from app.features.files.queries import sum_taken
from app.infra.cipher.chunks import sealed_size
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.kernel.ids import UploadId, UserId


async def require_room(
    tx: Tx, services: Services, owner_id: UserId, *, size: int, beside: UploadId | None = None
) -> None:
    """The scope of the person is locked. `size` of the plain bytes; what they take in the storage is what
    counts. `beside`: the upload that they are of.

    Raises:
        QuotaExceeded: quota_exceeded
    """
    settings = services.settings.files
    chunk_size = choose_chunk_size(settings)
    used = await sum_taken(tx, owner_id, chunk_size=chunk_size, beside=beside)
    stored_size = sealed_size(size, chunk_size) if size else 0
    require_fit(stored_size, used=used, quota=settings.quota)
