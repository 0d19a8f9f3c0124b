"""Objects in a directory, each a file in one of 4096 sub-directories; all work on the disk is done in threads.

An object is written under the name `<name>.part`, synced, and renamed when it is whole. A kill may leave such
a part behind: it is listed, and deleted with the name.

The directory may be where a disk is mounted. Once the marker of the installation was seen in it, a directory without
that is the place where the disk is not: nothing is written there, nothing is missing, nothing is deleted.
"""

import asyncio
import errno
import os
import secrets
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import structlog

from app.infra.storage.batches import gather_batches
from app.infra.storage.names import CHECK_PREFIX, MARKER, is_name, require_name
from app.infra.storage.port import (
    PATIENCE_SECONDS,
    RETRY_SECONDS,
    ObjectMissing,
    StorageFull,
    StorageUnavailable,
)
from app.settings import SettingsError

# What goes to a thread at once: a hop costs about 50 us, so that small pieces would cost more than the disk.
_HOP_BYTES: Final = 524_288
# So that no sync waits for a gigabyte, and dirty pages of an upload never push out everything else.
_SYNC_BYTES: Final = 16_777_216
_THREADS: Final = 8
# Those who sync have threads of their own: on a busy disk they would keep everybody else waiting for seconds.
_SYNCING_THREADS: Final = 8
# A busy disk may take longer for what it must write down; it is not away.
_SYNC_SECONDS: Final = 20.0
# EFBIG: a limit on the size of files (RLIMIT_FSIZE, the file system's own).
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What does not pass by itself.
_REFUSALS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT})
_PART: Final = ".part"

log = structlog.stdlib.get_logger("app.storage")

T = TypeVar("T")


class LocalStorage:
    """As `Storage`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._root = _Root(directory)
        # Of its own: a hanging disk shall not hold up what else runs in threads.
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage")
        self._syncing_pool = ThreadPoolExecutor(_SYNCING_THREADS, thread_name_prefix="storage-sync")

    async def write(self, name: str, chunks: AsyncIterable[bytes]) -> int:
        """As `Storage.write`."""
        draft = _Draft(self._path(name), self._root)
        try:
            # Its directory may be new, and then is synced.
            await self._hop(draft.open, is_syncing=True)
            async with aclosing(gather_batches(chunks, _HOP_BYTES)) as batches:
                async for batch in batches:
                    await self._hop(draft.append, batch, is_syncing=draft.is_sync_due)
            await self._hop(draft.publish, is_syncing=True)
        except BaseException:
            await self._discard(draft)
            raise
        return draft.size

    async def read(
        self, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """As `Storage.read`."""
        source = _Source(self._path(name), self._root)
        left = length
        try:
            await self._hop(source.open)
            while left is None or left > 0:
                wanted = _HOP_BYTES if left is None else min(left, _HOP_BYTES)
                piece = await self._hop(source.read, start, wanted)
                if not piece:
                    return
                yield piece
                start += len(piece)
                left = None if left is None else left - len(piece)
        finally:
            self._run_later(source.close)

    async def delete(self, name: str) -> None:
        """As `Storage.delete`."""
        try:
            await self._hop(_delete, self._path(name), self._root, is_syncing=True)
        except StorageFull as error:
            # A file system that copies on write wants room for that as well.
            raise StorageUnavailable(retry_after=RETRY_SECONDS) from error

    async def list_names(self) -> AsyncIterator[tuple[str, datetime]]:
        """As `Storage.list_names`; parts that a kill left behind stand there under their object's name."""
        for shard in await self._hop(_list_shards, self._root):
            for entry in await self._hop(_list_objects, shard):
                yield entry

    async def may_fit(self, size: int) -> bool:
        """As `Storage.may_fit`."""
        return await self._hop(_may_fit, self._directory, size)

    async def open_local(self, name: str) -> int | None:
        """As `Storage.open_local`."""
        source = _Source(self._path(name), self._root)
        try:
            await self._hop(source.open)
        except BaseException:
            self._run_later(source.close)
            raise
        return source.hand_over()

    async def sign_url(
        self, name: str, *, seconds: int, mime_type: str = "", disposition: str = ""
    ) -> str | None:
        """A directory has no URLs."""
        return None

    async def check(self) -> None:
        """As `Storage.check`."""
        name = CHECK_PREFIX + secrets.token_urlsafe(16)
        try:
            await self.write(name, _one(b"check"))
            read = b"".join([piece async for piece in self.read(name)])
            await self.delete(name)
        except StorageUnavailable as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _REFUSALS:
                fault = f"VAR_DIR: its directory {self._directory.name} refuses: {cause.strerror}"
                raise SettingsError([fault]) from error
            raise
        except ObjectMissing as error:
            raise StorageUnavailable(retry_after=RETRY_SECONDS) from error
        if read != b"check":
            raise StorageUnavailable(retry_after=RETRY_SECONDS)

    async def close(self) -> None:
        """Ends the threads; those that hang in the disk are left to it."""
        for pool in (self._pool, self._syncing_pool):
            pool.shutdown(wait=False, cancel_futures=False)

    def _path(self, name: str) -> Path:
        return self._directory / require_name(name)[:2] / name

    async def _hop(self, work: Callable[..., T], *args: object, is_syncing: bool = False) -> T:
        """Do it in a thread. Given up or cancelled, it still ends there: what it holds has a lock of its own."""
        pool, seconds = (
            (self._syncing_pool, _SYNC_SECONDS) if is_syncing else (self._pool, PATIENCE_SECONDS)
        )
        done = asyncio.wrap_future(pool.submit(work, *args))
        done.add_done_callback(_mark_as_seen)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait([done])
            return done.result()
        except OSError as error:  # a TimeoutError is one
            raise _translate(error) from error

    async def _discard(self, draft: "_Draft") -> None:
        """Wait for it as long as for anything else, whoever cancels meanwhile. The draft may be locked by a sync that
        hangs: so it waits among those who sync, never in the way of who reads.
        """
        done = asyncio.wrap_future(self._syncing_pool.submit(draft.discard))
        await asyncio.wait([done], timeout=PATIENCE_SECONDS)

    def _run_later(self, work: Callable[[], None]) -> None:
        try:
            self._pool.submit(work)
        except RuntimeError:  # the pool is closed: nobody else uses it now
            work()


def _mark_as_seen(done: "asyncio.Future[T]") -> None:
    """Whoever gave it up does not look at how it ended."""
    if not done.cancelled():
        done.exception()


class _Root:
    """The storage's own directory, and whether it was ever seen with the marker in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marker = path / MARKER[:2] / MARKER
        self._is_marked = False

    def require(self) -> None:
        """With the whole directory away nothing is known of any object: none is missing, none is deleted."""
        self.require_marker()
        if not self.path.is_dir():
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def require_marker(self) -> None:
        if self._marker.exists():
            self._is_marked = True
        elif self._is_marked:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def forget_marker(self) -> None:
        """It was taken away on purpose."""
        self._is_marked = False


class _Draft:
    """An object that is being written. The lock: a hop that was given up may still be at work."""

    def __init__(self, path: Path, root: _Root) -> None:
        self._path = path
        self._root = root
        self._part = path.with_name(path.name + _PART)
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        # What of it there is on the disk, for taking it back: never what somebody else put there.
        self._made: list[Path] = []
        self._is_over = False
        self._unsynced = 0
        self.size = 0

    @property
    def is_sync_due(self) -> bool:
        return self._unsynced >= _SYNC_BYTES

    def open(self) -> None:
        with self._lock:
            self._require_open()
            if self._path.name != MARKER:
                self._root.require_marker()
            if self._path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                self._descriptor = os.open(self._part, flags, 0o600)
            except FileNotFoundError:
                _make_directory(self._path.parent)
                self._descriptor = os.open(self._part, flags, 0o600)
            self._made.append(self._part)

    def append(self, pieces: Sequence[bytes]) -> None:
        with self._lock:
            descriptor = self._require_open()
            if self.is_sync_due:
                os.fdatasync(descriptor)
                self._unsynced = 0
            written = _write_all(descriptor, pieces)
            self._unsynced += written
            self.size += written

    def publish(self) -> None:
        """Give it its name, when all of it is on the disk."""
        with self._lock:
            os.fsync(self._require_open())
            self._close()
            self._part.rename(self._path)
            self._made.append(self._path)
            _sync_directory(self._path.parent)
            self._is_over = True

    def discard(self) -> None:
        """Nothing of it stays, not even a name that was given and not synced."""
        with self._lock:
            self._is_over = True
            self._close()
            for path in self._made:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _require_open(self) -> int:
        if self._is_over:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        return -1 if self._descriptor is None else self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


class _Source:
    """An object that is being read, under a lock as above."""

    def __init__(self, path: Path, root: _Root) -> None:
        self._path = path
        self._root = root
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._is_closed = False

    def open(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                self._root.require()
                raise ObjectMissing(self._path.name) from error

    def read(self, start: int, length: int) -> bytes:
        with self._lock:
            if self._descriptor is None:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            return os.pread(self._descriptor, length, start)

    def hand_over(self) -> int | None:
        """The descriptor, which is somebody else's from now on."""
        with self._lock:
            self._is_closed = True
            descriptor, self._descriptor = self._descriptor, None
            return descriptor

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._descriptor is not None:
                descriptor, self._descriptor = self._descriptor, None
                os.close(descriptor)


async def _one(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


def _write_all(descriptor: int, pieces: Sequence[bytes]) -> int:
    """All of it: the kernel takes part of a batch when the disk fills up within it."""
    written = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            taken = os.write(descriptor, view)
            view = view[taken:]
            written += taken
    return written


def _delete(path: Path, root: _Root) -> None:
    """The object and what is left of an attempt to write it, for good."""
    found = [_unlink(it) for it in (path, path.with_name(path.name + _PART))]
    if path.name == MARKER:
        root.forget_marker()
    # Its sub-directory may never have been made.
    with suppress(FileNotFoundError):
        _sync_directory(path.parent)
    if not any(found):
        root.require()


def _unlink(path: Path) -> bool:
    """Whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _make_directory(shard: Path) -> None:
    """A shard, and the storage's own directory before the first object."""
    root = shard.parent
    if not root.is_dir():
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_directory(root.parent)
    shard.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(root)


def _may_fit(root: Path, size: int) -> bool:
    """By what the file system has for us; the rest of it is kept for its administrator."""
    try:
        found = os.statvfs(root)
    except FileNotFoundError:
        # Whether it can be made, the write tells.
        return True
    return size <= found.f_bavail * found.f_frsize


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _list_shards(root: _Root) -> list[Path]:
    root.require()
    with os.scandir(root.path) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _list_objects(shard: Path) -> list[tuple[str, datetime]]:
    found: list[tuple[str, datetime]] = []
    with os.scandir(shard) as entries:
        for entry in entries:
            name = entry.name.removesuffix(_PART)
            # Between the list and the look at it, it may have been deleted or published.
            with suppress(FileNotFoundError):
                if is_name(name) and entry.is_file(follow_symlinks=False):
                    written_at = entry.stat(follow_symlinks=False).st_mtime
                    found.append((name, datetime.fromtimestamp(written_at, UTC)))
    return found


def _translate(error: OSError) -> StorageFull | StorageUnavailable:
    reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if error.errno in _FULL:
        log.warning("storage_full", reason=reason)
        return StorageFull()
    log.warning("storage_failed", reason=reason)
    return StorageUnavailable(retry_after=RETRY_SECONDS)
