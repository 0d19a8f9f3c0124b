"""The smaller pictures of a blob, noted with it in the transaction that makes them somebody's."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert

from app.features.files.models import RenditionRow
from app.infra.database.tx import Tx
from app.kernel.ids import BlobId


@dataclass(frozen=True, slots=True)
class NewRendition:
    """`size` of the plain bytes."""

    kind: str
    object_name: str
    size: int
    width: int
    height: int


async def add_renditions(
    tx: Tx, blob_id: BlobId, renditions: Sequence[NewRendition], *, chunk_size: int
) -> None:
    rows = [
        {
            "blob_id": blob_id,
            "kind": it.kind,
            "object_name": it.object_name,
            "size": it.size,
            "width": it.width,
            "height": it.height,
            "chunk_size": chunk_size,
        }
        for it in renditions
    ]
    if rows:
        await tx.execute(insert(RenditionRow), rows)
