"""What waits in front of one socket is bounded in bytes, whatever it is and however it leaves."""

import asyncio
from typing import Any

import pytest

from app.kernel.ids import ChatId, SessionId, UserId
from app.kernel.scopes import chat_scope
from app.transport.websocket.close_codes import CloseCode
from app.transport.websocket.connection import Connection
from app.transport.websocket.hub import Hub
from app.transport.websocket.outgoing import OutFrame
from app.transport.websocket.protocol import EXTENSION

pytestmark = pytest.mark.anyio

LIMIT = 100_000


class StalledPipe:
    """A line on which nothing moves: what the server's own protocol offers, with a reader that is asleep."""

    has_given_up = False

    def __init__(self) -> None:
        self.frames: list[OutFrame] = []
        self.code: int | None = None

    def write(self, frame: OutFrame) -> None:
        self.frames.append(frame)

    def waiting_bytes(self) -> int:
        return sum(map(len, self.frames))

    def close(self, code: int, reason: str) -> None:
        self.code = code


async def never(message: Any = None) -> Any:
    """ASGI's `send` to a reader that is asleep."""
    await asyncio.get_running_loop().create_future()


@pytest.fixture(params=["pipe", "asgi"])
async def connection(request: pytest.FixtureRequest) -> Connection:
    extensions = {EXTENSION: StalledPipe()} if request.param == "pipe" else {}
    return make_connection({"extensions": extensions})


def make_connection(asgi_scope: dict[str, Any]) -> Connection:
    return Connection(
        asgi_scope,
        never,
        never,
        user_id=UserId(1),
        session_id=SessionId(1),
        chat_id=None,
        queue_bytes=LIMIT,
        expires_at=0,
    )


async def test_a_queue_is_full_at_its_limit_and_then_the_socket_is_closed(
    connection: Connection,
) -> None:
    while connection.close_code is None:
        connection.send(OutFrame(b"x" * 999))
        assert connection.waiting_bytes() <= LIMIT
    assert connection.close_code == CloseCode.TOO_SLOW
    waiting = connection.waiting_bytes()
    connection.send(OutFrame(b"x"))
    connection.send_signal(OutFrame(b"x"))
    assert connection.waiting_bytes() <= waiting


async def test_signals_are_dropped_at_half_and_updates_are_not(connection: Connection) -> None:
    for _ in range(LIMIT):
        connection.send_signal(OutFrame(b"x" * 99))
    assert LIMIT // 2 - 99 < connection.waiting_bytes() <= LIMIT // 2
    waiting = connection.waiting_bytes()
    connection.send(OutFrame(b"x" * 99))
    assert connection.waiting_bytes() == waiting + 99
    assert connection.close_code is None


async def test_one_frame_that_is_larger_than_the_queue_passes_through_an_empty_one(
    connection: Connection,
) -> None:
    connection.send(OutFrame(b"x" * (LIMIT + 1)))
    assert connection.close_code is None
    connection.send(OutFrame(b"x"))
    assert connection.close_code == CloseCode.TOO_SLOW


async def test_what_is_held_back_is_bounded_for_all_scopes_together(
    connection: Connection,
) -> None:
    hub = Hub(lambda _scope: None)
    hub.add(connection)
    scopes = [chat_scope(ChatId(number)) for number in range(1, 1001)]
    for scope in scopes:
        hub.hold(connection, scope)
    for seq in range(1, 21):
        for scope in scopes:
            hub.deliver(scope, seq, OutFrame(b"x" * 200))
    held = [frame for scope in scopes for _, frame in hub.held(connection, scope)]
    assert 0 < sum(map(len, held)) <= LIMIT // 4
    assert connection.waiting_bytes() == 0
    whole = [scope for scope in scopes if hub.settle(connection, scope, 20, last=20)]
    assert whole == scopes


async def test_what_was_too_much_to_hold_must_be_read_again_and_what_fits_is_sent(
    connection: Connection,
) -> None:
    hub = Hub(lambda _scope: None)
    hub.add(connection)
    little, much = chat_scope(ChatId(1)), chat_scope(ChatId(2))
    hub.hold(connection, little)
    hub.hold(connection, much)
    hub.deliver(little, 1, OutFrame(b"one"))
    for seq in range(1, 6):
        hub.deliver(much, seq, OutFrame(b"x" * 10_000))
    assert not hub.settle(connection, much, 0, last=5)
    assert hub.settle(connection, little, 0, last=1)
    assert connection.waiting_bytes() == len(b"one")
    # The log was read on: what was held since then joins.
    hub.deliver(much, 6, OutFrame(b"six"))
    assert hub.settle(connection, much, 5, last=6)
    assert connection.waiting_bytes() == len(b"onesix")


async def test_what_one_scope_held_is_free_again_once_it_is_live_or_left(
    connection: Connection,
) -> None:
    hub = Hub(lambda _scope: None)
    hub.add(connection)
    for number in range(1, 50):
        scope = chat_scope(ChatId(number))
        hub.hold(connection, scope)
        hub.deliver(scope, 1, OutFrame(b"x" * 20_000))
        assert hub.held(connection, scope), "there is room"
        hub.unfollow(connection, scope)
