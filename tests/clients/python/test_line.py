"""A socket that the server closes: whoever uses it learns the code, not only who reads."""

import asyncio

import pytest
from messenger_client import Options, Unreachable
from messenger_client.line import Closed, Line
from websockets.asyncio.server import ServerConnection, serve

pytestmark = pytest.mark.anyio


async def close_at_the_first_frame(socket: ServerConnection) -> None:
    await socket.recv()
    await socket.close(1012)


async def test_the_code_is_told_to_all() -> None:
    async with serve(close_at_the_first_frame, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with await Line.open(f"http://127.0.0.1:{port}", "ticket", Options()) as line:
            with pytest.raises(Unreachable, match="closed with 1012"):
                await line.ask("auth", {})
            with pytest.raises(Unreachable, match="closed with 1012"):
                await line.send({"type": "ping", "data": {}})
            async with asyncio.timeout(30):
                assert await line.events.get() == Closed(1012)
