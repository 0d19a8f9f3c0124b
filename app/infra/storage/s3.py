"""Objects in a bucket of any S3-compatible store, through `obstore`: it signs, retries and cuts uploads into parts.

What is longer than a part is sent as a multipart upload, which is aborted when it fails. Where not even the
abort arrives, or this process is killed, a lifecycle rule of the bucket ends it.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from urllib.parse import quote

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from app.infra.storage.batches import count_bytes, gather_batches, take
from app.infra.storage.handover import Handover
from app.infra.storage.names import CHECK_PREFIX, is_name, require_name
from app.infra.storage.port import (
    PATIENCE_SECONDS,
    RETRY_SECONDS,
    ObjectMissing,
    StorageUnavailable,
)
from app.infra.storage.s3_errors import find_refusal, is_past_end, is_without_bucket, translate
from app.kernel.problems import Problem
from app.settings import SettingsError

# The least that S3 takes for a part that is not the last, and the most parts.
_PART_BYTES: Final = 5_242_880
MAX_OBJECT_BYTES: Final = 10_000 * _PART_BYTES
_PARTS_AT_ONCE: Final = 2
# An upload larger than this holds up to four parts in memory: so many may at a time, the others wait.
_SMALL_BYTES: Final = 524_288
_LARGE_AT_ONCE: Final = 64
_PIECE_BYTES: Final = 262_144
_MOST_PIECE_BYTES: Final = 1_048_576
# While others are answered a part may take longer: then the line is slow, not dead.
_PART_SECONDS: Final = 30.0
# A store may take long to put the parts together.
_COMPLETION_SECONDS: Final = 120.0
_ASK_SECONDS: Final = 1.0
_LETTING_GO_SECONDS: Final = 0.3
_LIST_COUNT: Final = 1000
_MOST_SIGNED_SECONDS: Final = 60
_NO_TYPE: Final = "application/octet-stream"
_ATTACHMENT: Final = "attachment"
# Who gets at an object by itself, without the parameters of our URLs, gets nothing that a browser runs.
_ATTRIBUTES: Final = {
    "Content-Type": _NO_TYPE,
    "Content-Disposition": _ATTACHMENT,
    "Cache-Control": "private, no-store",
}
_SHOWN: Final = re.compile(r"image/(?:jpeg|png|webp|gif)|(?:video|audio)/[a-z0-9][a-z0-9.+-]{0,63}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Where it is and who we are there. `endpoint` has no path, `prefix` no slashes around it."""

    name: str
    prefix: str
    endpoint: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)


class S3Storage:
    """As `Storage`."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._store = _open_store(bucket)
        self._large_uploads = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._answered_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._cleaning: set[asyncio.Task[None]] = set()

    async def write(self, name: str, chunks: AsyncIterable[bytes]) -> int:
        """As `Storage.write`."""
        require_name(name)
        async with aclosing(gather_batches(chunks, _SMALL_BYTES)) as batches:
            head = await take(batches, _SMALL_BYTES)
            if count_bytes(head) < _SMALL_BYTES:
                return await self._put(name, head)
            return await self._write_large(name, head, batches)

    async def read(
        self, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        """As `Storage.read`. A line that breaks is taken up again where it broke."""
        require_name(name)
        end = None if length is None else start + length
        if start == end:
            await self._get_size(name)
            return
        is_over = False
        while not is_over:
            stream = await self._open(name, start, end)
            opened_at = start
            try:
                while stream is not None and (piece := await self._next(stream)) is not None:
                    start += len(piece)
                    for at in range(0, len(piece), _MOST_PIECE_BYTES):
                        yield piece[at : at + _MOST_PIECE_BYTES]
                is_over = True
            except StorageUnavailable:
                if start == opened_at:
                    raise

    async def delete(self, name: str) -> None:
        """As `Storage.delete`."""
        require_name(name)
        # Some stores answer 404 for what is gone already.
        with suppress(ObjectMissing):
            await self._ask(self._store.delete_async(name))

    async def list_names(self) -> AsyncIterator[tuple[str, datetime]]:
        """As `Storage.list_names`; uploads in parts that were never finished are not among them."""
        listing = self._store.list(  # pyright: ignore[reportUnknownMemberType] - another overload is of arro3
            chunk_size=_LIST_COUNT
        )
        while (found := await self._ask(anext(listing, None))) is not None:
            for entry in found:
                if is_name(entry["path"]):
                    yield entry["path"], entry["last_modified"]

    async def may_fit(self, size: int) -> bool:
        """A bucket does not tell."""
        return True

    async def open_local(self, name: str) -> int | None:
        """Nothing lies on this machine."""
        return None

    async def sign_url(
        self,
        name: str,
        *,
        seconds: int,
        mime_type: str = _NO_TYPE,
        disposition: str = _ATTACHMENT,
    ) -> str | None:
        """As `Storage.sign_url`."""
        if not _SHOWN.fullmatch(mime_type):
            mime_type = _NO_TYPE
            disposition = re.sub(r"^[^;]*", _ATTACHMENT, disposition)
        bucket = self._bucket
        parts = (bucket.endpoint, bucket.name, bucket.prefix, require_name(name))
        kind, _, rest = mime_type.partition("/")
        # obstore signs any URL that it makes of an endpoint and a path, and has no word for the headers of
        # the answer. So this endpoint is the object with its parameters, the path the end of the last one.
        endpoint = (
            "/".join(filter(None, parts))
            + f"?response-content-disposition={quote(disposition, safe='')}"
            + f"&response-content-type={kind}"
        )
        life = timedelta(seconds=min(seconds, _MOST_SIGNED_SECONDS))
        return await self._ask(
            obstore.sign_async(_make_signer(bucket, endpoint), "GET", rest, life)
        )

    async def check(self) -> None:
        """As `Storage.check`."""
        name = CHECK_PREFIX + secrets.token_urlsafe(16)
        try:
            await self._put(name, [b"check"])
            read = b"".join([piece async for piece in self.read(name)])
            await self.delete(name)
        except StorageUnavailable as error:
            if refusal := find_refusal(error.__cause__):
                fault = f"STORAGE_URL: the store refuses us this bucket ({refusal})"
                raise SettingsError([fault]) from error
            raise
        except ObjectMissing as error:
            raise StorageUnavailable(retry_after=RETRY_SECONDS) from error
        if read != b"check":
            raise StorageUnavailable(retry_after=RETRY_SECONDS)

    async def close(self) -> None:
        """Wait a little for what is being cleaned up, and for obstore's threads.

        These let go of Python's objects behind the last answer, and a process that ends meanwhile is aborted
        (pyo3-async-runtimes, issue 40). Measured beside other work: 24 of 180 processes, and none of 270 after 20 ms.
        """
        if self._asking is not None:
            self._asking.cancel()
        if self._cleaning:
            await asyncio.wait(self._cleaning, timeout=PATIENCE_SECONDS)
        for task in self._cleaning:
            task.cancel()
        await asyncio.sleep(_LETTING_GO_SECONDS)

    async def _write_large(
        self, name: str, head: list[bytes], batches: AsyncIterator[list[bytes]]
    ) -> int:
        await self._take_turn()
        try:
            head += await take(batches, _PART_BYTES - count_bytes(head))
            if count_bytes(head) < _PART_BYTES:
                return await self._put(name, head)
            return await self._put_parts(name, head, batches)
        finally:
            self._large_uploads.release()

    async def _take_turn(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._large_uploads.acquire()
        except TimeoutError as error:
            raise translate(error) from error

    async def _put(self, name: str, pieces: list[bytes]) -> int:
        """In one request, which arrives whole or not at all."""
        content = b"".join(pieces)
        putting = asyncio.ensure_future(
            self._store.put_async(name, content, attributes=_ATTRIBUTES, use_multipart=False)
        )
        try:
            most = PATIENCE_SECONDS if len(content) <= _SMALL_BYTES else _PART_SECONDS
            await self._until(putting, most_seconds=most)
            self._answered_at = time.monotonic()
        except BaseException as error:
            await self._clean_up(name, putting, error)
            raise
        return len(content)

    async def _put_parts(
        self, name: str, head: list[bytes], batches: AsyncIterator[list[bytes]]
    ) -> int:
        handover = Handover()
        putting = asyncio.ensure_future(
            self._store.put_async(
                name,
                handover.pieces(),
                attributes=_ATTRIBUTES,
                chunk_size=_PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
            )
        )
        try:
            size = await self._hand_over(handover, head, putting)
            head.clear()
            async for batch in batches:
                size += await self._hand_over(handover, batch, putting)
            handover.end()
            await self._until(putting, most_seconds=_COMPLETION_SECONDS)
            self._answered_at = time.monotonic()
        except BaseException as error:
            handover.give_up()
            await self._clean_up(name, putting, error)
            raise
        return size

    async def _hand_over(
        self, handover: Handover, pieces: list[bytes], putting: asyncio.Future[Any]
    ) -> int:
        """Only the waiting for room is timed: when the client is slow, nobody else is."""
        for piece in pieces:
            room = asyncio.ensure_future(handover.wait_for_room())
            try:
                await self._until(room, putting, most_seconds=_PART_SECONDS)
            finally:
                room.cancel()
            if putting.done():
                # It has failed: there is more to come.
                await self._until(putting, most_seconds=0)
            handover.put(piece)
        return count_bytes(pieces)

    async def _until(self, *works: asyncio.Future[Any], most_seconds: float) -> None:
        """Until the first of them is over; raises what that one raised. Nothing is cancelled.

        How far a part has got cannot be seen. So where it takes long, something small is asked meanwhile, and
        as long as that is answered, the part is waited for: `most_seconds` in all.

        Raises:
            StorageFull: storage_full (507)
            StorageUnavailable: storage_unavailable
        """
        begun_at = time.monotonic()
        while not any(work.done() for work in works):
            quiet_until = max(begun_at, self._answered_at) + PATIENCE_SECONDS
            seconds = min(quiet_until, begun_at + most_seconds) - time.monotonic()
            if seconds <= 0:
                error = TimeoutError()
                raise translate(error) from error
            step = min(seconds, _ASK_SECONDS)
            done, _ = await asyncio.wait(works, timeout=step, return_when=asyncio.FIRST_COMPLETED)
            if not done and (self._asking is None or self._asking.done()):
                self._asking = asyncio.create_task(self._ask_something(), name="ask-storage")
        for work in works:
            if work.done():
                try:
                    work.result()
                except (BaseError, OSError) as error:
                    raise translate(error, is_writing=True) from error

    async def _ask_something(self) -> None:
        with suppress(ObjectMissing, Problem):
            await self._get_size("an-object-that-is-not-there")

    async def _clean_up(
        self, name: str, putting: asyncio.Future[Any], error: BaseException
    ) -> None:
        """The caller waits for it, but not where the store does not answer: it has waited long enough."""
        cleaning = asyncio.create_task(self._end(name, putting), name="end-upload")
        self._cleaning.add(cleaning)
        cleaning.add_done_callback(self._cleaning.discard)
        if not isinstance(error, StorageUnavailable):
            await asyncio.wait([cleaning])

    async def _end(self, name: str, putting: asyncio.Future[Any]) -> None:
        """Let it end as it will, since what is under way cannot be called back; then delete what it left."""
        await asyncio.wait([putting], timeout=PATIENCE_SECONDS)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        with suppress(Problem):
            await self.delete(name)

    async def _open(self, name: str, start: int, end: int | None) -> "obstore.BytesStream | None":
        """None: the object ends before `start`."""
        try:
            if end is not None:
                answering = self._store.get_async(name, options={"range": (start, end)})
            elif start:
                answering = self._store.get_async(name, options={"range": {"offset": start}})
            else:
                answering = self._store.get_async(name)
            return (await self._ask(answering)).stream(_PIECE_BYTES)
        except StorageUnavailable as error:
            if is_past_end(error.__cause__) and start >= await self._get_size(name):
                return None
            raise

    async def _next(self, stream: "obstore.BytesStream") -> bytes | None:
        piece = await self._ask(anext(stream, None))
        return None if piece is None else bytes(piece)

    async def _get_size(self, name: str) -> int:
        return (await self._ask(self._store.head_async(name)))["size"]

    async def _ask(self, answering: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await answering
        except FileNotFoundError as error:
            if is_without_bucket(error):
                raise translate(error) from error
            self._answered_at = time.monotonic()
            raise ObjectMissing from error
        except (BaseError, OSError) as error:
            raise translate(error) from error
        self._answered_at = time.monotonic()
        return answer


def _open_store(bucket: Bucket) -> S3Store:
    return S3Store(
        bucket.name,
        prefix=bucket.prefix or None,
        endpoint=bucket.endpoint,
        region=bucket.region,
        virtual_hosted_style_request=False,
        # A provider, so that nothing of ours is mixed with what AWS_... in the environment says.
        credential_provider=lambda: {
            "access_key_id": bucket.access_key,
            "secret_access_key": bucket.secret_key,
            "expires_at": None,
        },
        skip_signature=False,
        # One request more for each object, but every store knows it.
        disable_bulk_delete=True,
        client_options={
            "allow_http": bucket.endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=2),
            # Of a whole answer, which a slow reader may take for hours: ours are counted from piece to piece.
            "timeout": timedelta(days=1),
        },
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=3),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(milliseconds=500),
                "base": 2,
            },
        },
    )


def _make_signer(bucket: Bucket, url: str) -> S3Store:
    """For one URL, to which a path is added behind a slash, and neither bucket nor prefix."""
    return S3Store(
        bucket.name,
        endpoint=url,
        region=bucket.region,
        virtual_hosted_style_request=True,
        credential_provider=lambda: {
            "access_key_id": bucket.access_key,
            "secret_access_key": bucket.secret_key,
            "expires_at": None,
        },
        skip_signature=False,
        # It never connects. Else each one would read all the root certificates of the machine: 3 ms.
        client_options={"allow_http": True, "allow_invalid_certificates": True},
    )
