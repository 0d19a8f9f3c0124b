"""An ended session ends everywhere: its sockets close with 4401 and every worker refuses its token."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tests.faults.cluster import Cluster, run_cluster
from tests.faults.promises.scale import scaled
from tests.support import missing
from tests.support.people import API, Backend, Deployment, Person
from tests.support.sockets import Socket

pytestmark = pytest.mark.anyio

WORKERS = scaled(quick=2, full=4)
SOCKETS_EACH = 3
WAYS = ("logout", "revoke one", "revoke all others", "second password", "account deletion")
# Devices that are signed in at the same time; they are ended one after another.
AT_ONCE = 2 * len(WAYS)
ROUNDS = scaled(quick=10, full=500)
ROUNDS_WITHOUT_REDIS = scaled(quick=5, full=60)
# Beside other work only that everything ends is judged.
ALLOWED_SECONDS = scaled(quick=8.0, full=1.0)
ALLOWED_WITHOUT_REDIS_SECONDS = scaled(quick=8.0, full=2.0)
_ENDED = 4401
_PASSWORD = "correct horse battery"
# How long is looked, so that a miss is told with its figure.
_WATCHED_SECONDS = 20.0
_POLL_SECONDS = 0.05


class Lost(NamedTuple):
    """A device with sockets on every worker, and another device of the same account that is kept."""

    device: Person
    keeper: Person
    session_id: int
    way: str
    sockets: list[Socket]


class Ended(NamedTuple):
    """Seconds from the answer of the revocation to the last close, and to the last accepted request."""

    way: str
    closed: float
    accepted: float


@pytest.fixture
async def cluster(anyio_backend: str, directory: Path) -> AsyncIterator[Cluster]:
    del anyio_backend
    environment = {"ACCESS_TOKEN_MINUTES": "1440"}
    try:
        async with run_cluster(
            directory / "cluster", workers=WORKERS, environment=environment
        ) as made:
            yield made
    except missing.Missing as reason:
        missing.skip("PostgreSQL and Redis as processes", str(reason))


async def test_a_revoked_session_ends_on_every_worker(cluster: Cluster) -> None:
    deployment = Deployment("postgresql", [worker.server for worker in cluster.workers])
    running = await end_sessions(cluster, deployment, ROUNDS, redis="runs")
    stopped = await end_sessions(cluster, deployment, ROUNDS_WITHOUT_REDIS, redis="stopped")
    killed = await end_sessions(cluster, deployment, ROUNDS_WITHOUT_REDIS, redis="killed")
    for name, ended in (("runs", running), ("stopped", stopped), ("killed", killed)):
        closed, accepted = max(it.closed for it in ended), max(it.accepted for it in ended)
        print(
            f"revocation, Redis {name}: {len(ended)} rounds on {WORKERS} workers,"
            f" 4401 after {closed:.2f} s and the last accepted request {accepted:.2f} s at most"
        )
    assert slow(running, ALLOWED_SECONDS) == []
    assert slow(stopped + killed, ALLOWED_WITHOUT_REDIS_SECONDS) == []
    assert cluster.take_logged_errors() == []


def slow(ended: list[Ended], allowed_seconds: float) -> list[Ended]:
    return [it for it in ended if max(it.closed, it.accepted) > allowed_seconds]


async def end_sessions(
    cluster: Cluster, deployment: Deployment, rounds: int, *, redis: str
) -> list[Ended]:
    ended: list[Ended] = []
    while len(ended) < rounds:
        async with AsyncExitStack() as stack:
            backend = Backend(deployment, stack)
            count = min(AT_ONCE, rounds - len(ended))
            lost = [await lose(backend, WAYS[number % len(WAYS)]) for number in range(count)]
            take_redis_away(cluster, redis)
            try:
                ended += [await end(cluster, it) for it in lost]
            finally:
                await bring_redis_back(cluster, redis)
    return ended


async def lose(backend: Backend, way: str) -> Lost:
    keeper = await backend.sign_up()
    device = await backend.sign_in(keeper.phone)
    sessions = (await device.get("/auth/sessions"))["items"]
    session_id = next(it["id"] for it in sessions if it["is_current"])
    sockets: list[Socket] = []
    for node in backend.deployment.nodes:
        for _ in range(SOCKETS_EACH):
            url = f"{node.websocket_url}{API}/ws/{device.access_token}"
            sockets.append(await Socket.open(url))
            backend.stack.push_async_callback(sockets[-1].close)
    return Lost(device, keeper, session_id, way, sockets)


def take_redis_away(cluster: Cluster, redis: str) -> None:
    assert cluster.redis is not None
    if redis == "stopped":
        cluster.redis.signal(signal.SIGSTOP)
    elif redis == "killed":
        cluster.redis.kill()


async def bring_redis_back(cluster: Cluster, redis: str) -> None:
    assert cluster.redis is not None
    if redis == "stopped":
        cluster.redis.signal(signal.SIGCONT)
    elif redis == "killed":
        await asyncio.to_thread(cluster.redis.start)


async def end(cluster: Cluster, lost: Lost) -> Ended:
    """One round: every worker knows the session well, then it is revoked."""
    headers = {"Authorization": f"Bearer {lost.device.access_token}"}
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=worker.base_url, headers=headers, timeout=30, trust_env=False
                )
            )
            for worker in cluster.workers
        ]
        for client in clients:
            assert (await client.get(f"{API}/users/me")).status_code == httpx.codes.OK
        assert [socket.close_code for socket in lost.sockets] == [None] * len(lost.sockets)
        await revoke(lost)
        revoked_at = time.monotonic()
        accepted, closed = await asyncio.gather(
            asyncio.gather(*(wait_for_refusal(client, revoked_at) for client in clients)),
            asyncio.gather(*(wait_for_close(socket, revoked_at) for socket in lost.sockets)),
        )
    return Ended(lost.way, max(closed), max(accepted))


async def revoke(lost: Lost) -> None:
    if lost.way == "logout":
        await lost.device.post("/auth/logout", expect=204)
    elif lost.way == "revoke one":
        await lost.keeper.delete(f"/auth/sessions/{lost.session_id}", expect=204)
    elif lost.way == "revoke all others":
        await lost.keeper.delete("/auth/sessions", expect=204)
    elif lost.way == "account deletion":
        await lost.keeper.delete("/users/me", expect=204)
    else:
        # Whether it is set, changed or removed, the others end.
        await lost.keeper.put("/auth/two-step", {"password": _PASSWORD}, expect=200)


async def wait_for_close(socket: Socket, revoked_at: float) -> float:
    await socket.expect_close(_ENDED, timeout_seconds=_WATCHED_SECONDS)
    return time.monotonic() - revoked_at


async def wait_for_refusal(client: httpx.AsyncClient, revoked_at: float) -> float:
    """When the last request was begun that was still accepted; 0 if none was."""
    accepted = 0.0
    while (begun := time.monotonic() - revoked_at) < _WATCHED_SECONDS:
        status = (await client.get(f"{API}/users/me")).status_code
        if status == httpx.codes.UNAUTHORIZED:
            break
        assert status == httpx.codes.OK
        accepted = begun
        await asyncio.sleep(_POLL_SECONDS)
    return accepted
