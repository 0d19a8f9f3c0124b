"""The pieces that use cases of sessions and sign-in are called with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from app.features.auth import models as auth_models
from app.features.chats import models as chat_models
from app.features.sessions.activity import Activity
from app.features.sessions.open import SessionTokens, open_session
from app.features.sessions.refresh import refresh_session
from app.features.sessions.revocations import RevocationList
from app.features.updates.log import lock_scopes
from app.features.users.create import create_user
from app.infra.bus.memory import MemoryBus
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import Keyring, open_keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.tokens.access import AccessTokens
from app.kernel.events import SecurityEvent
from app.kernel.ids import UserId
from app.kernel.scopes import user_scope
from app.settings import Settings, TokenSettings
from tests.support.databases import SetClock

TABLES = (auth_models, chat_models)
LIMITS = TokenSettings(_env_file=None)


@dataclass
class Recorder:
    """Keeps security events, so that tests see what would be audited."""

    events: list[SecurityEvent] = field(default_factory=list[SecurityEvent])

    def record(self, event: SecurityEvent) -> None:
        self.events.append(event)

    async def write(self, tx: Tx, events: Sequence[SecurityEvent]) -> None:
        """Those of transactions, once they are committed."""
        taken = list(events)
        tx.after_commit(lambda: self.events.extend(taken))

    def names(self) -> list[str]:
        return [event.name for event in self.events]


@dataclass
class World:
    """One worker over a database."""

    db: Database
    clock: SetClock
    settings: Settings
    keyring: Keyring
    index: BlindIndex
    tokens: AccessTokens
    bus: MemoryBus
    revocations: RevocationList
    activity: Activity
    events: Recorder

    async def new_user(self, phone: str = "+447400123456") -> UserId:
        async def work(tx: Tx) -> UserId:
            return await create_user(
                tx, self.keyring, self.index, phone=phone, first_name="Anna", last_name=None
            )

        return await self.db.write(work)

    async def open(self, user_id: UserId, device_name: str | None = None) -> SessionTokens:
        async def work(tx: Tx) -> SessionTokens:
            log = await lock_scopes(tx, [user_scope(user_id)])
            return await open_session(
                tx,
                log,
                keyring=self.keyring,
                tokens=self.tokens,
                revocations=self.revocations,
                limits=LIMITS,
                user_id=user_id,
                device_name=device_name,
            )

        return await self.db.write(work)

    async def refresh(self, refresh_token: str) -> SessionTokens:
        return await refresh_session(
            self.db,
            self.keyring,
            tokens=self.tokens,
            revocations=self.revocations,
            limits=LIMITS,
            refresh_token=refresh_token,
        )


@pytest.fixture
async def world(db: Database, clock: SetClock, settings: Settings) -> World:
    keyring = await open_keyring(db, b"m" * 40, rounds=1000, personal=True, messages=True)
    bus = MemoryBus()
    lifetime = timedelta(minutes=LIMITS.access_minutes)
    events = Recorder()
    db.write_events = events.write
    return World(
        db=db,
        clock=clock,
        settings=settings,
        keyring=keyring,
        index=BlindIndex(b"i" * 40),
        tokens=AccessTokens(b"s" * 40, lifetime=lifetime, clock=clock),
        bus=bus,
        revocations=RevocationList(bus, keep=lifetime * 2),
        activity=Activity(),
        events=events,
    )
