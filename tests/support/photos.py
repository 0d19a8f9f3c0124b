"""Photos as people upload and look at them."""

import io
import secrets
from collections.abc import Mapping
from random import Random

import httpx
from PIL import Image
from sqlalchemy import insert

from app.features.files.models import BlobRow, FileRow, RenditionRow
from app.features.files.views import Details, seal_details
from app.infra.cipher.keyring import Keyring, blob_key
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.kernel.ids import BlobId, FileId, UserId
from tests.support.people import API, Json, Person

_DOORS = ("url", "thumbnail_url")


def make_photo(seed: int = 1, *, width: int = 800, height: int = 600) -> bytes:
    """A JPEG; different seeds give different pictures."""
    dice = Random(seed)
    picture = Image.new("RGB", (width, height), (dice.randrange(256), dice.randrange(256), 40))
    for _ in range(20):
        place = (dice.randrange(width), dice.randrange(height))
        picture.paste((dice.randrange(256), dice.randrange(256), 200), (*place, width, height))
    stream = io.BytesIO()
    picture.save(stream, "JPEG")
    return stream.getvalue()


async def keep_photo(db: Database, keyring: Keyring, owner_id: UserId) -> FileId:
    """As after an upload, without bytes: for tests of what is read of it from the database."""

    async def work(tx: Tx) -> FileId:
        [blob_id], [file_id] = await tx.reserve_ids(BlobRow, 1), await tx.reserve_ids(FileRow, 1)
        key = await keyring.create(tx, blob_key(BlobId(blob_id)))
        name = secrets.token_hex(16)
        blob: dict[str, object] = {
            "id": blob_id,
            "owner_id": owner_id,
            "object_name": name,
            "size": 1,
            "stored_size": 1,
            "chunk_size": 0,
            "content_tag": None,
            "created_at": tx.now,
        }
        details = Details(
            original_name="photo.jpg", sha256="0" * 64, width=8, height=6, placeholder="AAAA"
        )
        file: dict[str, object] = {
            "id": file_id,
            "owner_id": owner_id,
            "blob_id": blob_id,
            "name": f"{name}.jpg",
            "file_type": "photo",
            "mime_type": "image/jpeg",
            "details": seal_details(key, FileId(file_id), details),
            "state": "ready",
            "created_at": tx.now,
            "unused_since": tx.now,
        }
        rendition: dict[str, object] = {
            "blob_id": blob_id,
            "kind": "small",
            "object_name": f"{name}-small",
            "size": 1,
            "width": 8,
            "height": 6,
            "chunk_size": 0,
        }
        for row, values in ((BlobRow, blob), (FileRow, file), (RenditionRow, rendition)):
            await tx.execute(insert(row).values(values))
        return FileId(file_id)

    return await db.write(work)


async def upload_photo(person: Person, seed: int = 1) -> Json:
    return await person.upload(make_photo(seed), name="photo.jpg", purpose="photo")


async def fetch(
    person: Person, url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """One file, by the URL that stands in an answer."""
    return await person.call(method, url.removeprefix(API), headers=dict(headers or {}))


async def may_read(person: Person, photo: Json) -> bool:
    """Whether this person reads the photo, and no door says otherwise: whole, in part, by name or by tag, in
    both sizes.
    """
    answers: set[bool] = set()
    for door in _DOORS:
        url = photo[door]
        whole = await fetch(person, url)
        tag = whole.headers.get("etag", '"unknown"')
        others = [
            await fetch(person, url, method="HEAD"),
            await fetch(person, url, headers={"Range": "bytes=0-9"}),
            await fetch(person, url, headers={"If-None-Match": tag}),
            await fetch(person, url, headers={"If-None-Match": "*"}),
        ]
        statuses = [whole.status_code, *(it.status_code for it in others)]
        assert statuses in ([200, 200, 206, 304, 304], [404] * 5), (door, statuses)
        answers.add(whole.is_success)
    assert len(answers) == 1, answers
    return answers.pop()
