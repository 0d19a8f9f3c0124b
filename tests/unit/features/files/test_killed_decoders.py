"""Decoders that are killed or kept waiting from outside: nobody's file is refused for that."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

import pytest
from sqlalchemy import func, select

from app.features.files.errors import PhotoInvalid
from app.features.files.models import FileRow, FileWorkRow, UploadPartRow
from app.features.files.process import process_files
from app.features.files.resumable.create import create_upload
from app.features.files.resumable.finish import finish_upload
from app.features.files.resumable.incoming import Incoming
from app.features.files.resumable.metadata import parse_metadata
from app.features.files.resumable.queries import find_upload_by_id
from app.features.files.resumable.receive import receive
from app.features.files.resumable.upload import FAILED, FINISHED, FINISHING, Upload
from app.features.files.uses import load_files
from app.infra.media import decoder as decoder_module
from app.infra.media import pool as pool_module
from app.infra.media.port import MediaBusy
from app.infra.media.processor import MediaProcessor
from app.infra.storage.port import Storage
from app.kernel.ids import UploadId
from tests.support.media import camera_photo, video
from tests.unit.features.files.conftest import Depot

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="a kernel that kills without a word"),
]


@dataclass
class Watched:
    """A storage that tells when it is read; all else is `inner`'s."""

    inner: Storage
    on_read: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def read(
        self, name: str, *, start: int = 0, length: int | None = None
    ) -> AsyncIterator[bytes]:
        self.on_read()
        async for piece in self.inner.read(name, start=start, length=length):
            yield piece


@dataclass
class Slaughter:
    """A depot with decoders, which are killed in the middle of their work for as long as `lasts`."""

    depot: Depot
    media: MediaProcessor
    lasts: bool = True
    number: signal.Signals = signal.SIGKILL

    def strike(self) -> None:
        for pid in self.media.pids if self.lasts else ():
            os.kill(pid, self.number)

    async def bring(self, content: bytes) -> Upload:
        """By tus, all bytes of it."""
        services = self.depot.services
        owner_id = await self.depot.world.new_user()
        upload = await create_upload(
            services, owner_id=owner_id, length=len(content), metadata=parse_metadata("")
        )

        async def pieces() -> AsyncIterator[bytes]:
            yield content

        incoming = Incoming(pieces(), most=len(content), may_go_on=lambda: True)
        assert await receive(services, upload, incoming)
        return upload

    async def standing(self, upload_id: UploadId) -> tuple[str, int]:
        """The state of an upload, and how many parts it has."""
        db = self.depot.world.db
        upload = await db.read(lambda tx: find_upload_by_id(tx, upload_id))
        assert upload is not None
        count = select(func.count()).where(UploadPartRow.upload_id == upload_id)
        return upload.state, await db.read(lambda tx: tx.scalar(count)) or 0


@pytest.fixture
async def slaughter(depot: Depot) -> AsyncIterator[Slaughter]:
    media, storage = MediaProcessor(), Watched(depot.services.storage)
    made = Slaughter(
        replace(depot, services=replace(depot.services, storage=storage, media=media)), media
    )
    storage.on_read = made.strike
    yield made
    await media.close()


@pytest.fixture(params=["killed", "stopped"])
def struck(
    request: pytest.FixtureRequest, slaughter: Slaughter, monkeypatch: pytest.MonkeyPatch
) -> Slaughter:
    """By a kernel without memory, or by a machine that is so busy that it gives them nothing of its time."""
    if request.param == "stopped":
        monkeypatch.setattr(decoder_module, "_PATIENCE", 0.1)
        slaughter.number = signal.SIGSTOP
    return slaughter


async def test_a_photo_is_asked_for_again_and_never_called_unsound(
    struck: Slaughter, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = struck.depot
    owner_id, photo = await depot.world.new_user(), camera_photo()
    with pytest.raises(MediaBusy) as refused:
        await depot.upload(owner_id, photo)
    assert refused.value.retry_after
    struck.lasts = False
    monkeypatch.undo()
    assert (await depot.upload(owner_id, photo))["file_type"] == "photo"


async def test_a_resumable_photo_keeps_its_parts_until_it_works_out(
    struck: Slaughter, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await struck.bring(camera_photo())
    with pytest.raises(MediaBusy):
        await finish_upload(struck.depot.services, upload.id)
    assert await struck.standing(upload.id) == (FINISHING, 1)
    struck.lasts = False
    monkeypatch.undo()
    await finish_upload(struck.depot.services, upload.id)
    assert (await struck.standing(upload.id))[0] == FINISHED


async def test_a_film_is_looked_into_later(
    struck: Slaughter, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = struck.depot
    struck.lasts = False
    film = await depot.upload(await depot.world.new_user(), video())
    struck.lasts = True
    db, clock = depot.world.db, depot.world.clock
    for _ in range(4):
        await process_files(depot.services)
        assert await db.read(lambda tx: tx.scalars(select(FileWorkRow.attempts))) == [0]
        assert await db.read(lambda tx: tx.scalars(select(FileRow.state))) == ["processing"]
        clock.advance(hours=2)
    struck.lasts = False
    monkeypatch.undo()
    await process_files(depot.services)
    [found] = (await db.read(lambda tx: load_files(tx, depot.world.keyring, [film["id"]]))).values()
    assert "duration" in found


async def test_what_always_kills_its_decoder_is_refused_in_the_end(
    slaughter: Slaughter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whichever door it comes, and though each try lies in the storage under another name."""
    monkeypatch.setattr(pool_module, "_MAX_HINDERED", 3)
    monkeypatch.setattr(pool_module, "_HINDERED_SECONDS", 0.0)
    depot, photo = slaughter.depot, camera_photo()
    upload = await slaughter.bring(photo)
    for _ in range(2):
        with pytest.raises(MediaBusy):
            await finish_upload(depot.services, upload.id)
    with pytest.raises(PhotoInvalid):
        await finish_upload(depot.services, upload.id)
    assert await slaughter.standing(upload.id) == (FAILED, 0)
    slaughter.lasts = False
    film = await depot.upload(await depot.world.new_user(), video())
    slaughter.lasts = True
    for _ in range(3):
        await process_files(depot.services)
        depot.world.clock.advance(hours=2)
    states = await depot.world.db.read(
        lambda tx: tx.scalars(select(FileRow.state).where(FileRow.id == film["id"]))
    )
    assert states == ["ready"]


async def test_one_that_crashes_its_decoder_is_refused_at_once(slaughter: Slaughter) -> None:
    slaughter.number = signal.SIGSEGV
    with pytest.raises(PhotoInvalid):
        await slaughter.depot.upload(await slaughter.depot.world.new_user(), camera_photo())
