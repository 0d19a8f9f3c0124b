"""Making a file of an upload whose bytes are all there: they are read through once, like any upload.

Exactly once: the file comes into being in the transaction in which the upload ceases to be without one. Whoever
is killed before it has written nothing that counts, and another takes the upload up when the lease has run out.
"""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

import structlog

from app.features.files.objects import StoredObject
from app.features.files.resumable.errors import UploadDamaged
from app.features.files.resumable.metadata import Metadata, parse_metadata
from app.features.files.resumable.queries import (
    change_upload,
    end_parts,
    find_upload_by_id,
    is_finish_due,
    list_parts,
    lock_upload,
    put_off_finish,
    renew_finish,
    take_unfinished,
)
from app.features.files.resumable.upload import (
    FAILED,
    FINISHED,
    FINISHING,
    Upload,
    find_metadata,
    lifetime,
    upload_key,
)
from app.features.files.store import store_upload
from app.infra.cipher.chunks import ChunkInvalid
from app.infra.cipher.envelope import DataKey
from app.infra.cipher.keyring import user_key
from app.infra.database.lease import keep_lease
from app.infra.database.tx import Tx
from app.infra.services import Services
from app.infra.storage.port import ObjectMissing
from app.kernel.ids import FileId, UploadId
from app.kernel.problems import Problem, is_passing

_RENEWED_EVERY_SECONDS: Final = 5.0
_PAGE: Final = 500

log = structlog.stdlib.get_logger("app.files")


class _EndedMeanwhile(Exception):  # noqa: N818 - takes the file back
    """The upload was terminated, or somebody else has made its file."""


@dataclass(frozen=True, slots=True)
class _Complete:
    upload: Upload
    metadata: Metadata
    key: DataKey


async def finish_upload(services: Services, upload_id: UploadId) -> None:
    """The caller has it to himself. Whoever asks for it afterwards sees what became of it.

    Raises:
        Problem: it can be no file and has failed for good (its parts are gone), or, if that may pass, it
            waits for a job to try again.
    """
    try:
        complete = await services.db.read(lambda tx: _load(tx, services, upload_id))
    except UploadDamaged as problem:
        if await _give_up(services, upload_id, problem):
            raise
        return
    if complete is None:
        return
    # Whoever takes it up meanwhile makes no second file of it.
    async with keep_lease(
        services.db,
        lambda tx: renew_finish(tx, upload_id),
        every_seconds=_RENEWED_EVERY_SECONDS,
    ):
        try:
            await _store(services, complete)
        except _EndedMeanwhile:
            return
        except Problem as problem:
            if await _give_up(services, upload_id, problem):
                raise


async def finish_uploads(services: Services) -> None:
    """Those that are complete and that nobody is at: he was killed, or something was away."""
    while await services.db.read(is_finish_due):
        upload_id = await services.db.write(take_unfinished)
        if upload_id is None:
            return
        try:
            await finish_upload(services, upload_id)
        except Problem as problem:
            log.warning("upload_not_finished", upload_id=upload_id, code=problem.code)


async def _load(tx: Tx, services: Services, upload_id: UploadId) -> _Complete | None:
    upload = await find_upload_by_id(tx, upload_id)
    if upload is None or upload.state != FINISHING:
        return None
    owners = (user_key(upload.owner_id), upload_key(upload_id))
    keys = await services.keyring.load(tx, owners)
    if not keys.keys() >= set(owners):
        # The account is being deleted.
        return None
    metadata = find_metadata(keys[owners[0]], upload)
    if metadata is None:
        raise UploadDamaged
    return _Complete(upload, parse_metadata(metadata), keys[owners[1]])


async def _store(services: Services, complete: _Complete) -> None:
    upload, metadata = complete.upload, complete.metadata

    async def bind(tx: Tx, file_id: FileId) -> None:
        found = await lock_upload(tx, upload.id)
        if found is None or found.state != FINISHING:
            raise _EndedMeanwhile
        await change_upload(
            tx,
            upload.id,
            state=FINISHED,
            file_id=file_id,
            finish_at=None,
            expires_at=tx.now + lifetime(services),
        )
        await end_parts(tx, services.keyring, upload.id)

    try:
        async with contextlib.aclosing(_read(services, complete)) as pieces:
            await store_upload(
                services,
                owner_id=upload.owner_id,
                chunks=pieces,
                original_name=metadata.filename,
                purpose=metadata.purpose,
                declared_size=upload.length,
                bind=bind,
            )
    except (ObjectMissing, ChunkInvalid) as error:
        raise UploadDamaged from error


async def _read(services: Services, complete: _Complete) -> AsyncGenerator[bytes]:
    """All bytes of an upload, in their order."""
    upload_id, behind = complete.upload.id, -1
    while parts := await services.db.read(
        lambda tx, behind=behind: list_parts(tx, upload_id, behind=behind, limit=_PAGE)
    ):
        for part in parts:
            stored = StoredObject(
                storage=services.storage,
                name=part.object_name,
                cipher=complete.key.object_cipher(part.object_name),
                size=part.size,
                chunk_size=part.chunk_size,
            )
            pieces = stored.open(0, part.size)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    yield piece
            behind = part.position


async def _give_up(services: Services, upload_id: UploadId, problem: Problem) -> bool:
    """For a while, or for good; False: as below."""
    if not is_passing(problem):
        has_failed = await _fail(services, upload_id, problem.code)
        if has_failed and isinstance(problem, UploadDamaged):
            log.warning("upload_damaged", upload_id=upload_id)
        return has_failed
    # Should the database be what is away, the lease runs out by itself.
    with contextlib.suppress(Problem):
        await services.db.write(lambda tx: put_off_finish(tx, upload_id))
    return True


async def _fail(services: Services, upload_id: UploadId, code: str) -> bool:
    """False: it was terminated, or another has made its file, whose parts are gone for that reason."""

    async def work(tx: Tx) -> bool:
        upload = await lock_upload(tx, upload_id)
        if upload is None or upload.state != FINISHING:
            return False
        await change_upload(tx, upload_id, state=FAILED, failure=code, finish_at=None)
        await end_parts(tx, services.keyring, upload_id)
        return True

    return await services.db.write(work)
