"""Devices that are reference clients, on the shared deployments."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from messenger_client import Change, Client, MemoryStore, Options, Store, Update

from tests.support.people import Backend, Deployment, JudgedTransport
from tests.support.waiting import eventually

QUICK = Options(backoff_first=0.05, backoff_most=0.5, pong_timeout=20, request_timeout=30)


@dataclass(eq=False)
class Device:
    """A signed-in client that runs, and the store that outlives it."""

    client: Client
    store: Store
    user: dict[str, Any]
    running: "asyncio.Task[None] | None" = None

    @property
    def id(self) -> int:
        return self.user["id"]

    def applied(self, scope: str) -> list[Change]:
        assert isinstance(self.store, MemoryStore)
        return self.store.applied.get(scope, [])

    def seqs(self, scope: str) -> list[int]:
        return [change.seq for change in self.applied(scope) if isinstance(change, Update)]

    def texts(self, chat_id: int) -> list[str]:
        changes = self.applied(f"chat:{chat_id}")
        news = [it for it in changes if isinstance(it, Update) and it.type == "new_message"]
        return [(it.data.get("message") or it.data).get("text") for it in news]

    async def start(self) -> None:
        self.running = asyncio.create_task(self.client.run())
        await self.client.wait_until_synced(60)

    async def crash(self) -> None:
        """As a killed process: no goodbye."""
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        await self.client.close()

    async def expect_seq(self, scope: str, seq: int) -> None:
        async def holds() -> bool:
            return self.client.position.cursors.get(scope) == seq

        await eventually(holds, timeout_seconds=60, what=f"{scope} at {seq}")


async def open_chat(one: Device, other: Device) -> int:
    """A private chat that both follow from its beginning, those that run.

    `chat_created` tells the chat as it is when it is read: what was said before then is no update.
    """
    body = {"type": "private", "user_id": other.id}
    chat_id = (await one.client.call("POST", "/chats/", body))["id"]
    for device in (one, other):
        if device.running is not None:
            await device.expect_seq(f"chat:{chat_id}", 0)
    return chat_id


@dataclass
class Devices:
    """Makes them; all are closed at the end of the test."""

    deployment: Deployment
    made: list[Device] = field(default_factory=list)

    def client(self, store: Store, *, base_url: str | None = None, **options: Any) -> Client:
        """Through all nodes in turn, or (for a line of its own) to one address."""
        urls = [node.base_url for node in self.deployment.nodes]
        first = base_url or self.deployment.next_node().base_url
        others = () if base_url else tuple(url for url in urls if url != first)
        transport = JudgedTransport(self.deployment.openapi)
        settings = {"base_urls": others, "transport": transport} | options
        return Client(first, store, options=replace(QUICK, **settings))

    async def sign_up(
        self, phone: str | None = None, store: Store | None = None, name: str = "Anna"
    ) -> Device:
        store = store or MemoryStore()
        client = self.client(store)
        sent = await client.request_code(phone or self.deployment.next_phone())
        user = await client.sign_in(
            verification_id=sent["verification_id"],
            code=self.deployment.codes(sent["phone"])[-1],
            first_name=name,
        )
        device = Device(client, store, {**user, "phone": sent["phone"]})
        self.made.append(device)
        return device

    async def come_back(self, device: Device) -> Device:
        """A new process over the old store."""
        again = Device(self.client(device.store), device.store, device.user)
        self.made.append(again)
        await again.start()
        return again


@pytest.fixture
async def devices(backend: Backend) -> AsyncIterator[Devices]:
    made = Devices(backend.deployment)
    yield made
    for device in made.made:
        await device.crash()
