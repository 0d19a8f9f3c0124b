"""The tables of files: what was uploaded, the bytes it refers to, what is made of them, and who shows it.

A file is what an uploader knows by its name; a blob is what lies in the storage. Equal uploads of one
person share a blob, and a forward shares the file.
"""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.cipher.places import sealed
from app.infra.database.columns import BigId
from app.infra.database.tables import Row
from app.kernel.ids import BlobId, FileId, UploadId, UserId


class BlobRow(Row):
    """Bytes in the storage, under `object_name`, sealed with the key `blob:<id>` in chunks of
    `chunk_size`; 0: plain. `content_tag` is keyed with the owner's key: it tells equal uploads of one
    person apart from others without telling anyone else what was uploaded.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        UniqueConstraint("owner_id", "content_tag"),
        # Covers the sum of a person's quota.
        Index("ix_blobs_quota", "owner_id", "stored_size"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[BlobId] = mapped_column(BigId, primary_key=True)
    owner_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"))
    object_name: Mapped[str] = mapped_column(unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    stored_size: Mapped[int] = mapped_column(BigInteger)
    chunk_size: Mapped[int]
    content_tag: Mapped[bytes | None]
    created_at: Mapped[datetime]


class RenditionRow(Row):
    """A smaller picture of a blob: `kind` is `small` or `medium`, always WebP, sealed with the
    blob's key (each object under a key of its own, derived from it).
    """

    __tablename__ = "renditions"
    __table_args__ = ({"sqlite_with_rowid": False},)

    blob_id: Mapped[BlobId] = mapped_column(
        BigInteger, ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(primary_key=True)
    object_name: Mapped[str] = mapped_column(unique=True)
    size: Mapped[int] = mapped_column(BigInteger)
    width: Mapped[int]
    height: Mapped[int]
    chunk_size: Mapped[int]


class FileRow(Row):
    """`name` is made by the server, the last part of the URL. `details` is sealed JSON: the original
    name, the hash of the bytes served, dimensions, duration, placeholder, waveform.

    `state`: `processing` until what is read from a video or a sound is known, then `ready`.
    `unused_since`: nothing refers to it; who uploads has a grace time to use it. `ended_at`: its last
    use is gone, nobody reads it any more, and a job takes its bytes.
    """

    __tablename__ = "files"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[FileId] = mapped_column(BigId, primary_key=True)
    owner_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    blob_id: Mapped[BlobId] = mapped_column(BigInteger, ForeignKey("blobs.id"), index=True)
    name: Mapped[str] = mapped_column(unique=True)
    file_type: Mapped[str]
    mime_type: Mapped[str]
    details: Mapped[bytes] = mapped_column(info=sealed("always", "blob:{blob_id}", fixed=True))
    state: Mapped[str]
    created_at: Mapped[datetime]
    unused_since: Mapped[datetime | None] = mapped_column(index=True)
    ended_at: Mapped[datetime | None] = mapped_column(index=True)


class FileUseRow(Row):
    """`kind` and `subject_id` say who shows the file, at which place of its album: a `message`, a
    `user` or a `chat` (their photos). Whether a viewer may see that use, its slice knows.
    """

    __tablename__ = "file_uses"
    __table_args__ = ({"sqlite_with_rowid": False},)

    kind: Mapped[str] = mapped_column(primary_key=True)
    subject_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[FileId] = mapped_column(BigInteger, ForeignKey("files.id"), index=True)


class FileWorkRow(Row):
    """A file whose bytes are still to be looked into. `due_at`: when a worker may take it up; one that
    works on it moves it on. `setbacks`: how often it was put back because something was full or away.
    """

    __tablename__ = "file_work"
    __table_args__ = ({"sqlite_with_rowid": False},)

    file_id: Mapped[FileId] = mapped_column(
        BigInteger, ForeignKey("files.id"), primary_key=True, autoincrement=False
    )
    attempts: Mapped[int]
    setbacks: Mapped[int] = mapped_column(default=0, server_default="0")
    due_at: Mapped[datetime] = mapped_column(index=True)


class DoomedObjectRow(Row):
    """An object of the storage that is to be deleted: written in the transaction that ends its row, or
    before the object is, so that a kill leaves nothing behind.

    Struck out when the object has become somebody's; until then whoever writes it moves `due_at` on.
    `owner_id`, on one object of an upload: whose upload is under way, and `reserved`: the bytes that it may take
    in the storage. `is_taken`: somebody deletes it now, so it must not become anybody's any more.
    """

    __tablename__ = "doomed_objects"
    __table_args__ = ({"sqlite_with_rowid": False},)

    object_name: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[UserId | None] = mapped_column(BigInteger, index=True)
    reserved: Mapped[int | None] = mapped_column(BigInteger)
    is_taken: Mapped[bool]
    due_at: Mapped[datetime] = mapped_column(index=True)


class UploadRow(Row):
    """A resumable upload (tus). `token` is its name on the wire; `length` is None until the client tells
    it; `details` is sealed JSON: its metadata.

    `state`: `receiving`; `finishing` when all bytes are there and none of them is a file yet, `finish_at`
    being when a worker may take that up, and `setbacks` how often that was put off; `finished`; or `failed`
    with the code of the problem.
    """

    __tablename__ = "uploads"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[UploadId] = mapped_column(BigId, primary_key=True)
    owner_id: Mapped[UserId] = mapped_column(BigInteger, ForeignKey("users.id"), index=True)
    token: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str]
    length: Mapped[int | None] = mapped_column(BigInteger)
    received: Mapped[int] = mapped_column(BigInteger)
    parts_count: Mapped[int]
    details: Mapped[bytes] = mapped_column(info=sealed("always", "user:{owner_id}"))
    file_id: Mapped[FileId | None] = mapped_column(
        BigInteger, ForeignKey("files.id", ondelete="SET NULL"), index=True
    )
    failure: Mapped[str | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    finish_at: Mapped[datetime | None] = mapped_column(index=True)
    setbacks: Mapped[int] = mapped_column(default=0, server_default="0")


class UploadPartRow(Row):
    """Bytes of an upload from `position` on, as an object of the storage, sealed with `upload:<id>`."""

    __tablename__ = "upload_parts"
    __table_args__ = ({"sqlite_with_rowid": False},)

    upload_id: Mapped[UploadId] = mapped_column(
        BigInteger, ForeignKey("uploads.id"), primary_key=True
    )
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    object_name: Mapped[str] = mapped_column(unique=True)
    chunk_size: Mapped[int]
