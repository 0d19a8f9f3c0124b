"""The end of listening: whoever has a connection is served, whoever comes later is refused.

uvicorn closes its listening sockets as they are. Measured: of 16 clients that open a connection for each
request, 14 were reset at every stop, because the kernel had taken their connections and the server had not
yet. nginx must not repeat a POST that met this.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import cast

from uvicorn import Server


async def take_newcomers(server: Server) -> None:
    """Close the listening sockets of a server that has started; serve what waited in front of them."""
    loop = asyncio.get_running_loop()
    make = cast("Callable[..., asyncio.Protocol]", server.config.http_protocol_class)

    def make_protocol() -> asyncio.Protocol:
        """As uvicorn makes them."""
        return make(
            config=server.config,
            server_state=server.server_state,
            app_state=server.lifespan.state,
            _loop=loop,
        )

    newcomers: list[socket.socket] = []
    for listening in server.servers:
        # Nothing in between: what comes after the last look is reset.
        for listener in listening.sockets:
            newcomers += accept_waiting(listener.fileno())
        listening.close()
    await asyncio.gather(
        *(loop.connect_accepted_socket(make_protocol, it) for it in newcomers),
        return_exceptions=True,
    )


def accept_waiting(listener_fd: int) -> Sequence[socket.socket]:
    """All connections that the kernel has taken so far."""
    accepted: list[socket.socket] = []
    with socket.socket(fileno=os.dup(listener_fd)) as listener:
        listener.settimeout(0)
        while True:
            try:
                accepted.append(listener.accept()[0])
            except ConnectionAbortedError:
                continue
            except OSError:
                # There is none, or no more can be had.
                return accepted
