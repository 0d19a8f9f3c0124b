"""Files as they look on the wire, and the sealed details that they are made of."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, NotRequired, TypedDict, cast

import orjson

from app.features.files.policy import State
from app.infra.cipher.envelope import CiphertextInvalid, DataKey
from app.infra.cipher.keyring import Keyring, blob_key
from app.infra.database.tx import Tx
from app.kernel.ids import BlobId, FileId, UserId

FILES_PATH: Final = "/api/v1/files"
THUMBNAIL_SIZES: Final = ("small", "medium")


class Details(TypedDict):
    """What is known of a file beside what its row says in the clear; `duration_ms` in milliseconds."""

    original_name: str
    sha256: str
    width: NotRequired[int]
    height: NotRequired[int]
    duration_ms: NotRequired[int]
    placeholder: NotRequired[str]
    waveform: NotRequired[Sequence[int]]


class Thumbnail(TypedDict):
    size: str
    url: str
    width: int
    height: int


class FileView(TypedDict):
    """A file of the contract, the same for every viewer. `duration` in seconds."""

    id: FileId
    file_type: str
    filename: str
    original_name: str
    url: str
    size: int
    mime_type: str
    sha256: str
    width: NotRequired[int]
    height: NotRequired[int]
    duration: NotRequired[float]
    thumbnail_url: NotRequired[str]
    thumbnails: NotRequired[list[Thumbnail]]
    placeholder: NotRequired[str]
    waveform: NotRequired[Sequence[int]]
    is_processing: NotRequired[bool]


class FileRecord(NamedTuple):
    """A row of `files` with the size of its bytes."""

    id: FileId
    owner_id: UserId
    blob_id: BlobId
    name: str
    file_type: str
    mime_type: str
    details: bytes
    state: str
    created_at: datetime
    size: int


class RenditionRecord(NamedTuple):
    blob_id: BlobId
    kind: str
    width: int
    height: int


def seal_details(key: DataKey, file_id: FileId, details: Details) -> bytes:
    return key.seal(orjson.dumps(details), table="files", column="details", row_id=file_id)


def find_details(key: DataKey | None, file_id: FileId, sealed: bytes) -> Details | None:
    """None: it does not open, or its key is gone."""
    if key is None:
        return None
    try:
        plain = key.open(sealed, table="files", column="details", row_id=file_id)
    except CiphertextInvalid:
        return None
    return cast("Details", orjson.loads(plain))


def file_url(file_type: str, name: str) -> str:
    return f"{FILES_PATH}/{file_type}/{name}"


async def render_files(
    tx: Tx,
    keyring: Keyring,
    records: Iterable[FileRecord],
    renditions: Iterable[RenditionRecord],
) -> dict[FileId, FileView]:
    """Those whose details open; their keys are loaded in one query."""
    records = list(records)
    keys = await keyring.load(tx, [blob_key(record.blob_id) for record in records])
    by_blob: dict[BlobId, list[RenditionRecord]] = {}
    for rendition in renditions:
        by_blob.setdefault(rendition.blob_id, []).append(rendition)
    views: dict[FileId, FileView] = {}
    for record in records:
        details = find_details(keys.get(blob_key(record.blob_id)), record.id, record.details)
        if details is not None:
            views[record.id] = render_file(record, details, by_blob.get(record.blob_id, ()))
    return views


def render_file(
    record: FileRecord, details: Details, renditions: Sequence[RenditionRecord]
) -> FileView:
    url = file_url(record.file_type, record.name)
    view: FileView = {
        "id": record.id,
        "file_type": record.file_type,
        "filename": record.name,
        "original_name": details["original_name"],
        "url": url,
        "size": record.size,
        "mime_type": record.mime_type,
        "sha256": details["sha256"],
    }
    if "width" in details and "height" in details:
        view["width"], view["height"] = details["width"], details["height"]
    if "duration_ms" in details:
        view["duration"] = details["duration_ms"] / 1000
    if "placeholder" in details:
        view["placeholder"] = details["placeholder"]
    if "waveform" in details:
        view["waveform"] = details["waveform"]
    thumbnails = _render_thumbnails(url, {it.kind: it for it in renditions})
    if thumbnails:
        view["thumbnails"] = thumbnails
        view["thumbnail_url"] = thumbnails[0]["url"]
    if record.state == State.PROCESSING:
        view["is_processing"] = True
    return view


def _render_thumbnails(url: str, renditions: Mapping[str, RenditionRecord]) -> list[Thumbnail]:
    return [
        {
            "size": size,
            "url": f"{url}?thumbnail={size}",
            "width": renditions[size].width,
            "height": renditions[size].height,
        }
        for size in THUMBNAIL_SIZES
        if size in renditions
    ]
