"""Where the bytes of files lie. Names are made by the server (`names.py`); what lies under one is never changed.

Every write is whole or absent: a reader never finds half an object, whatever was killed meanwhile. Every call is
answered within `PATIENCE_SECONDS` of no progress.
"""

from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime
from typing import Final, Protocol

from app.kernel.problems import InsufficientStorage, Unavailable

PATIENCE_SECONDS: Final = 4.0
# Asking again sooner finds it as it was.
RETRY_SECONDS: Final = 5


class StorageFull(InsufficientStorage):
    """The disk, bucket or quota behind the storage takes nothing more."""


class StorageUnavailable(Unavailable):
    """The storage does not answer, or not in time."""

    code = "storage_unavailable"
    title = "The file storage does not answer"


class ObjectMissing(Exception):  # noqa: N818 - says what is found, not what was done
    """Nothing lies under this name."""


class Storage(Protocol):
    """Adapters: `local.py` (a directory), `s3.py` (any S3-compatible store)."""

    async def write(self, name: str, chunks: AsyncIterable[bytes]) -> int:
        """Store all chunks under a new name, durably, in constant memory; gives their size in bytes.

        If `chunks` raises, or this call is cancelled, nothing lies under the name afterwards. So it is also
        after the problems below, as far as the storage can be told so: delete the name once more later.

        Raises:
            StorageFull: storage_full (507)
            StorageUnavailable: storage_unavailable
        """
        ...

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` on; `length` None: to the end. In pieces of at most 1 MiB.

        Raises:
            ObjectMissing
            StorageUnavailable: storage_unavailable
        """
        ...

    async def delete(self, name: str) -> None:
        """Safe to repeat: what does not exist is deleted already.

        Raises:
            StorageUnavailable: storage_unavailable
        """
        ...

    def list_names(self) -> AsyncIterator[tuple[str, datetime]]:
        """Every object and when it was written, in no order: for the search of what nothing refers to."""
        ...

    async def may_fit(self, size: int) -> bool:
        """Before so many bytes are written: False where they surely do not fit now. True promises nothing: others
        write too, and a bucket does not tell.

        Raises:
            StorageUnavailable: storage_unavailable
        """
        ...

    async def open_local(self, name: str) -> int | None:
        """A descriptor of the file that the bytes lie in, for sending them without copying, which the caller
        closes; None: they lie elsewhere.

        Raises:
            ObjectMissing
            StorageUnavailable: storage_unavailable
        """
        ...

    async def sign_url(
        self, name: str, *, seconds: int, mime_type: str = ..., disposition: str = ...
    ) -> str | None:
        """A URL at which whoever has it reads the object for so long, 60 s at most; None: this storage has none.

        `mime_type` and `disposition` (Content-Disposition) are those of the answer: pictures, video and sound as
        they are, everything else as an attachment of no type, whatever is asked for. Nobody can change them in the URL.

        Raises:
            StorageUnavailable: storage_unavailable
        """
        ...

    async def check(self) -> None:
        """Whether it can be written, read and deleted from now. Makes the directory; never a bucket.

        Raises:
            SettingsError: it is not there, or refuses us: only whoever runs it can mend that
            StorageFull: storage_full (507)
            StorageUnavailable: storage_unavailable
        """
        ...

    async def close(self) -> None: ...
