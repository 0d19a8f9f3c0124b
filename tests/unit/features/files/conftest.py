"""Files of people over an empty database and a directory of their own."""

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.features.files.policy import Purpose
from app.features.files.queries import list_subjects_of
from app.features.files.rules import FileAudience
from app.features.files.store import store_upload
from app.features.files.uses import add_uses, drop_ended_uses, remove_uses
from app.features.files.views import FileView
from app.infra.database.tx import Tx
from app.infra.limits.memory import MemoryLimiter
from app.infra.presence.memory import MemoryPresence
from app.infra.services import Services
from app.infra.storage.local import LocalStorage
from app.infra.storage.names import MARKER
from app.kernel.cursors import CursorCodec
from app.kernel.ids import FileId, UserId
from app.kernel.rules import Rules
from tests.unit.features.conftest import World


@dataclass
class Shelf:
    """An audience: each subject is seen by whom it is opened for. `told`: of what it was told that it is known."""

    kind: str = "message"
    viewers: dict[int, set[UserId]] = field(default_factory=dict)
    told: list[int] = field(default_factory=list)

    async def is_shown_to(self, tx: Tx, viewer_id: UserId, file_id: FileId) -> bool:
        shown = await list_subjects_of(tx, file_id, self.kind, limit=10_000)
        return any(viewer_id in self.viewers.get(it, set()) for it in shown)

    async def tell_processed(self, services: Services, subject_ids: Sequence[int]) -> None:
        del services
        self.told += subject_ids

    async def drop_ended(self, services: Services, subject_ids: Sequence[int]) -> None:
        await services.db.write(lambda tx: drop_ended_uses(tx, self.kind, subject_ids))


@dataclass
class Depot:
    """What tests of files work with."""

    world: World
    services: Services
    shelf: Shelf
    directory: Path

    async def upload(
        self,
        owner_id: UserId,
        content: bytes | None = None,
        *,
        purpose: Purpose = Purpose.ATTACHMENT,
    ) -> FileView:
        content = os.urandom(100) if content is None else content

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        return await store_upload(
            self.services,
            owner_id=owner_id,
            chunks=chunks(),
            original_name="a.bin",
            purpose=purpose,
            declared_size=None,
        )

    async def show(self, subject_id: int, *file_ids: FileId) -> None:
        await self.world.db.write(lambda tx: add_uses(tx, "message", {subject_id: file_ids}))

    async def hide(self, *subject_ids: int) -> None:
        await self.world.db.write(lambda tx: remove_uses(tx, "message", subject_ids))

    def objects(self) -> list[str]:
        names = (path.name for path in self.directory.rglob("*") if path.is_file())
        return sorted(name for name in names if name != MARKER)


@pytest.fixture
async def depot(world: World, directory: Path) -> AsyncIterator[Depot]:
    place = directory / "files"
    storage, shelf, rules = LocalStorage(place), Shelf(), Rules()
    rules.register(FileAudience, shelf)
    services = Services(
        settings=world.settings,
        clock=world.clock,
        db=world.db,
        keyring=world.keyring,
        index=world.index,
        cursors=CursorCodec(b"c" * 40),
        tokens=world.tokens,
        sms=None,
        bus=world.bus,
        presence=MemoryPresence(),
        limiter=MemoryLimiter(),
        events=world.events,
        rules=rules,
        storage=storage,
        media=None,
        scanner=None,
    )
    yield Depot(world, services, shelf, place)
    await storage.close()
