"""The end of listening over real uvicorn: nobody whose connection the kernel has taken is forgotten."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from app.transport.http.protocol import HttpProtocol
from app.transport.newcomers import take_newcomers

pytestmark = pytest.mark.anyio
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.fixture(
    scope="module",
    params=["asyncio", ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def server(anyio_backend: Any) -> AsyncIterator[uvicorn.Server]:
    del anyio_backend
    config = uvicorn.Config(
        answer, port=0, http=HttpProtocol, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 - a condition of uvicorn's
            await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await running


async def test_who_waits_in_front_of_the_server_is_served_and_who_comes_later_is_refused(
    server: uvicorn.Server,
) -> None:
    address = server.servers[0].sockets[0].getsockname()
    # The kernel takes them, and the server, whose loop is this one, has not yet.
    waiting = [socket.create_connection(address) for _ in range(20)]
    for connection in waiting:
        connection.send(REQUEST)
    await take_newcomers(server)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    for connection in waiting:
        reader, writer = await asyncio.open_connection(sock=connection)
        assert (await reader.read()).endswith(b"\r\n\r\nok")
        writer.close()
