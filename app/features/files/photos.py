"""Photos of people and chats: files of type photo that stand beside a name, each at one place alone.

The row of the person or chat refers to the file too, so that a page on which nobody has one costs no
statement.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, TypedDict

from sqlalchemy import select

from app.features.files.errors import PhotoInvalid
from app.features.files.models import FileRow, FileUseRow
from app.features.files.policy import FileType
from app.features.files.queries import lock_files
from app.features.files.uses import add_uses, claim_files, load_files, remove_uses
from app.features.files.views import FileView
from app.infra.cipher.keyring import Keyring
from app.infra.database.tx import Tx
from app.kernel.ids import FileId, UserId
from app.kernel.problems import FieldError

PhotoKind = Literal["user", "chat"]


class PhotoView(TypedDict):
    """On the wire, the same wherever it is shown. `placeholder`: a ThumbHash, as base64."""

    file_id: int
    url: str
    thumbnail_url: str
    width: int
    height: int
    placeholder: str | None


class PhotoOutline(TypedDict):
    """As much of a photo as stands for one that the viewer may not read yet."""

    width: int
    height: int
    placeholder: str | None


async def load_photos(
    tx: Tx, keyring: Keyring, file_ids: Iterable[FileId | None]
) -> dict[FileId | None, PhotoView]:
    """Those that there are, whoever looks: ask who may see them first. No statement for no photo, else a
    constant number.
    """
    wanted = {file_id for file_id in file_ids if file_id is not None}
    if not wanted:
        return {}
    files = await load_files(tx, keyring, wanted)
    return {file_id: _render(view) for file_id, view in files.items()}


async def change_photo(
    tx: Tx,
    keyring: Keyring,
    *,
    kind: PhotoKind,
    subject_id: int,
    owner_id: UserId,
    shown: FileId | None,
    wanted: FileId | None,
) -> None:
    """In place of `shown` show `wanted`, an upload of `owner_id`; None: nothing. The caller holds the scope of the
    person or chat, has read there what is shown, and stores the id in its row.

    Raises:
        file_not_found
        photo_invalid: it is a file of another type.
    """
    # Both at once, in their order: two chats may exchange their photos.
    await lock_files(tx, {it for it in (shown, wanted) if it is not None})
    if wanted is not None:
        [claimed] = await claim_files(tx, keyring, owner_id=owner_id, file_ids=[wanted])
        if claimed.file_type is not FileType.PHOTO:
            raise PhotoInvalid(errors=[FieldError("photo", "is not a file of type photo")])
    if shown is not None:
        await remove_uses(tx, kind, [subject_id])
    if wanted is not None:
        await add_uses(tx, kind, {subject_id: [wanted]})


async def list_shown(tx: Tx, kind: PhotoKind, *, owner_id: UserId, limit: int) -> Sequence[int]:
    """The people or chats that show an upload of `owner_id`."""
    statement = (
        select(FileUseRow.subject_id)
        .join(FileRow, FileRow.id == FileUseRow.file_id)
        .where(FileRow.owner_id == owner_id, FileUseRow.kind == kind)
        .limit(limit)
    )
    return await tx.scalars(statement)


async def shows_upload_of(tx: Tx, kind: PhotoKind, subject_id: int, *, owner_id: UserId) -> bool:
    """Whether this person or chat shows an upload of `owner_id`."""
    statement = (
        select(FileUseRow.file_id)
        .join(FileRow, FileRow.id == FileUseRow.file_id)
        .where(
            FileUseRow.kind == kind,
            FileUseRow.subject_id == subject_id,
            FileRow.owner_id == owner_id,
        )
    )
    return await tx.scalar(statement) is not None


def outline(photo: PhotoView) -> PhotoOutline:
    return PhotoOutline(
        width=photo["width"], height=photo["height"], placeholder=photo["placeholder"]
    )


def _render(file: FileView) -> PhotoView:
    """A photo was decoded within its upload, so that all of this is known of it."""
    return PhotoView(
        file_id=file["id"],
        url=file["url"],
        thumbnail_url=file.get("thumbnail_url", file["url"]),
        width=file.get("width", 0),
        height=file.get("height", 0),
        placeholder=file.get("placeholder"),
    )
