"""Two workers over one database and a bus that may lose, double and delay; clients that only read frames."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
import pytest

from app.catalog import FEATURES
from app.features.chats.changes import Tools
from app.features.chats.create import NewChat, create_chat
from app.features.chats.policy import ChatType
from app.features.gateway.connect import Admission
from app.features.gateway.runtime import Gateway
from app.features.gateway.sockets import Socket
from app.features.messages.content import Content
from app.features.messages.send import Draft, Sent, send_message
from app.features.sessions.authenticate import CurrentSession
from app.features.sessions.feature import register_sessions
from app.features.updates.epoch import ensure_epoch
from app.features.updates.read import collect_update_kinds
from app.features.users.create import create_user
from app.infra.bus.memory import MemoryBus
from app.infra.cipher.blind_index import BlindIndex
from app.infra.cipher.keyring import open_keyring
from app.infra.database.database import Database
from app.infra.database.tx import Tx
from app.infra.limits.memory import MemoryLimiter
from app.infra.presence.memory import MemoryPresence
from app.infra.services import Services
from app.infra.tokens.access import AccessTokens
from app.kernel.clock import SystemClock
from app.kernel.cursors import CursorCodec
from app.kernel.ids import ChatId, SessionId, UserId
from app.kernel.rules import Rules
from app.settings import Settings
from tests.support.waiting import eventually

_numbers = itertools.count(1)


class Wire:
    """Between the workers. `lost`, `doubled`: probabilities; `delay`: seconds at most.

    `loses` names payloads that never arrive.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.loses: Callable[[bytes], bool] = lambda _: False
        self.lost = 0.0
        self.doubled = 0.0
        self.delay = 0.0
        self.buses: list[WorkerBus] = []

    def carry(self, sender: "WorkerBus", topic: str, payload: bytes) -> None:
        for bus in self.buses:
            if self.loses(payload):
                continue
            if bus is not sender and self.rng.random() >= self.lost:
                for _ in range(1 + (self.rng.random() < self.doubled)):
                    asyncio.get_running_loop().call_later(
                        self.rng.uniform(0, self.delay), bus.hear, topic, payload
                    )


class WorkerBus(MemoryBus):
    """One worker's end of the wire."""

    reaches_others = True

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire
        wire.buses.append(self)

    def hear(self, topic: str, payload: bytes) -> None:
        super().publish(topic, payload)

    def publish(self, topic: str, payload: bytes) -> None:
        super().publish(topic, payload)
        self.wire.carry(self, topic, payload)


@dataclass
class Client:
    """The far end of a socket: an ASGI server that takes everything, unless it is told to stall.

    `is_far`: it takes each frame a moment after it was sent.
    """

    is_far: bool = False
    frames: list[dict[str, Any]] = field(default_factory=list)
    code: int | None = None
    incoming: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)
    takes: asyncio.Event = field(default_factory=asyncio.Event)
    socket: Socket | None = None
    task: "asyncio.Task[None] | None" = None

    async def receive(self) -> dict[str, Any]:
        return await self.incoming.get()

    async def send(self, message: dict[str, Any]) -> None:
        await self.takes.wait()
        if self.is_far:
            await asyncio.sleep(0)
        if message["type"] == "websocket.close":
            self.code = message["code"]
            self.hang_up()
        else:
            self.frames.append(orjson.loads(message["text"]))

    def hang_up(self) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1005})

    def say(self, frame_type: str, data: dict[str, Any], request_id: str | None = None) -> None:
        frame: dict[str, Any] = {"type": frame_type, "data": data}
        if request_id is not None:
            frame["request_id"] = request_id
        text = orjson.dumps(frame).decode()
        self.incoming.put_nowait({"type": "websocket.receive", "text": text})

    def seqs(self, scope: str) -> list[int]:
        return [frame["seq"] for frame in self.frames if frame.get("scope") == scope]

    def seen(self, frame_type: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == frame_type]

    async def expect(self, met: Callable[[], object], seconds: float = 8) -> None:
        async def holds() -> bool:
            return bool(met())

        await eventually(holds, timeout_seconds=seconds)

    @property
    def state(self) -> dict[str, int]:
        return {k: v for hello in self.seen("hello") for k, v in hello["data"]["state"].items()}

    @property
    def epoch(self) -> str:
        return self.seen("hello")[0]["data"]["epoch"]


@dataclass
class Cluster:
    """Worker 0 commits; worker 1 learns of it over the wire alone."""

    db: Database
    services: list[Services]
    gateways: list[Gateway]
    wire: Wire
    clients: list[Client] = field(default_factory=list)

    @property
    def tools(self) -> Tools:
        return Tools.of(self.services[0])

    async def settle(self, name: str = "Anna") -> UserId:
        async def work(tx: Tx) -> UserId:
            return await create_user(
                tx,
                self.services[0].keyring,
                self.services[0].index,
                phone=f"+4474{next(_numbers):08d}",
                first_name=name,
                last_name=None,
            )

        return await self.db.write(work)

    async def group(
        self,
        owner: UserId,
        *members: UserId,
        kind: Any = ChatType.GROUP,
        visible: bool | None = None,
    ) -> ChatId:
        new = NewChat(type=kind, title="Group", member_ids=members, history_visible=visible)
        return await create_chat(self.db, self.tools, owner_id=owner, new=new)

    async def say(self, sender: UserId, chat_id: ChatId, text: str, **more: Any) -> Sent:
        draft = Draft(chat_id=chat_id, content=Content(text=text), **more)
        return await send_message(self.db, self.services[0].keyring, sender_id=sender, draft=draft)

    async def connect(
        self, user_id: UserId, worker: int = 1, chat_id: ChatId | None = None
    ) -> Client:
        client = Client()
        client.takes.set()
        session = CurrentSession(
            user_id, SessionId(next(_numbers)), SystemClock().now() + timedelta(hours=1)
        )

        async def live() -> None:
            admission = Admission(session, chat_id)
            client.socket = Socket(
                self.gateways[worker], admission, {}, client.receive, client.send
            )
            await client.socket.live()

        client.task = asyncio.create_task(live())
        self.clients.append(client)
        await client.expect(lambda: client.seen("hello") or client.code)
        return client


@pytest.fixture
async def cluster(db: Database, settings: Settings) -> AsyncIterator[Cluster]:
    wire = Wire(random.Random(1))
    keyring = await open_keyring(db, b"m" * 40, rounds=1000, personal=True, messages=True)
    epoch = await ensure_epoch(db)
    presence = MemoryPresence()
    kinds = collect_update_kinds(FEATURES)
    frames = {frame.type: frame for feature in FEATURES for frame in feature.frames}
    services: list[Services] = []
    gateways: list[Gateway] = []
    for _ in range(2):
        bus, rules = WorkerBus(wire), Rules()
        register_sessions(rules, bus, access_lifetime=timedelta(minutes=15))
        for feature in FEATURES:
            for entry in feature.rules:
                rules.register(entry.kind, entry.rule)
        clock = SystemClock()
        services.append(
            Services(
                settings=settings,
                clock=clock,
                db=db,
                keyring=keyring,
                index=BlindIndex(b"i" * 40),
                cursors=CursorCodec(b"c" * 40),
                tokens=AccessTokens(b"s" * 40, lifetime=timedelta(minutes=15), clock=clock),
                sms=None,
                bus=bus,
                presence=presence,
                limiter=MemoryLimiter(),
                events=None,
                rules=rules,
                storage=None,
                media=None,
                scanner=None,
            )
        )
        gateways.append(Gateway(services[-1], kinds=kinds, frames=frames, epoch=epoch))
    # The last to start hears the commits.
    for gateway in reversed(gateways):
        await gateway.start()
    cluster = Cluster(db, services, gateways, wire)
    yield cluster
    for client in cluster.clients:
        client.takes.set()
        client.hang_up()
        if client.task is not None:
            await asyncio.wait([client.task], timeout=30)
    for gateway in gateways:
        await gateway.stop()
