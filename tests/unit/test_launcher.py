"""What `python -m app` adds to uvicorn before anything is served."""

import asyncio
import socket
from contextlib import ExitStack

import uvicorn
import uvloop

from app.__main__ import listen

CLIENTS = 12


def test_several_connections_are_accepted_in_a_turn_of_the_loop() -> None:
    """libuv accepts one of each listening socket. One a turn is less than a crowd that comes back needs."""
    accepted: list[int] = []
    turn = 0

    class Counting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(turn)
            transport.close()

    async def serve() -> None:
        nonlocal turn
        listeners = listen(uvicorn.Config("app.main:app", host="127.0.0.1", port=0))
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(Counting, sock=it) for it in listeners]
        with ExitStack() as stack:
            for _ in range(CLIENTS):
                stack.enter_context(socket.create_connection(listeners[0].getsockname()))
            while len(accepted) < CLIENTS:
                turn += 1
                await asyncio.sleep(0)
        for server in servers:
            server.close()

    uvloop.run(asyncio.wait_for(serve(), 60))
    assert max(accepted.count(it) for it in accepted) == 3
