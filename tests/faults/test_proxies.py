"""The proxies do what they are told: else the schedules would prove nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from tests.faults.postgres_proxy import CommitFinder, PostgresProxy
from tests.faults.redis_proxy import RedisProxy, measure
from tests.faults.tcp_proxy import TcpProxy, Way
from tests.support.postgres import Postgres
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that says back what it hears; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def silent_ear() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that never answers; its port, and what it heard."""
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while data := await reader.read(1000):
                heard.append(data)
        heard.append(b"closed")
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


@asynccontextmanager
async def line(proxy: TcpProxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield reader, writer
    writer.close()


async def hear(reader: asyncio.StreamReader, seconds: float = 2) -> bytes:
    async with asyncio.timeout(seconds):
        return await reader.read(1000)


async def say(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, word: bytes) -> bytes:
    writer.write(word)
    return await hear(reader)


async def test_bytes_pass_through_and_a_cut_is_felt_at_once() -> None:
    async with echo() as port, TcpProxy.to("127.0.0.1", port) as proxy, line(proxy) as (r, w):
        assert await say(w, r, b"hello") == b"hello"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await hear(r)
        await eventually(lambda: is_empty(proxy))


async def test_a_silent_line_stays_open_and_carries_nothing_until_it_is_mended() -> None:
    async with echo() as port, TcpProxy.to("127.0.0.1", port) as proxy, line(proxy) as (r, w):
        assert await say(w, r, b"hello") == b"hello"
        proxy.silence()
        w.write(b"lost")
        with pytest.raises(TimeoutError):
            await hear(r, 0.2)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            await hear(r)


async def test_neither_end_of_a_silent_line_hears_that_the_other_is_gone() -> None:
    async with silent_ear() as (port, heard), TcpProxy.to("127.0.0.1", port) as proxy:
        async with line(proxy) as (_, w):
            w.write(b"hello")
            await eventually(lambda: holds(heard == [b"hello"]))
            proxy.silence()
        async with line(proxy) as (_, w):
            w.write(b"later")
            await eventually(lambda: holds(b"later" in heard))
        # A line that was not silent is closed, the silent one is not.
        await eventually(lambda: holds(b"closed" in heard))
        assert heard == [b"hello", b"later", b"closed"]
        proxy.heal()
        await eventually(lambda: holds(heard[3:] == [b"closed"]))


async def test_a_reader_that_is_stalled_still_speaks() -> None:
    async with echo() as port, TcpProxy.to("127.0.0.1", port) as proxy, line(proxy) as (r, w):
        assert await say(w, r, b"one") == b"one"
        proxy.links[0].stall(Way.TO_CLIENT)
        w.write(b"two")
        with pytest.raises(TimeoutError):
            await hear(r, 0.1)
        proxy.links[0].flow()
        assert await hear(r) == b"two"


async def test_a_lagging_line_takes_its_time_each_way() -> None:
    async with echo() as port, TcpProxy.to("127.0.0.1", port) as proxy, line(proxy) as (r, w):
        proxy.lag_seconds = 0.05
        began = time.monotonic()
        assert await say(w, r, b"one") == b"one"
        assert time.monotonic() - began >= 0.1


async def test_a_share_of_the_answers_is_lost() -> None:
    async with echo() as port, TcpProxy.to("127.0.0.1", port, seed=3) as proxy:
        proxy.loss = 0.5
        answers = 0
        for _ in range(40):
            async with line(proxy) as (r, w):
                with suppress(ConnectionResetError):
                    answers += await say(w, r, b"?") == b"?"
        assert proxy.answers_lost == 40 - answers
        assert 10 < answers < 30


async def test_a_stalled_line_delivers_later() -> None:
    async with echo() as port, TcpProxy.to("127.0.0.1", port) as proxy, line(proxy) as (r, w):
        assert await say(w, r, b"one") == b"one"
        proxy.links[0].stall()
        w.write(b"two")
        with pytest.raises(TimeoutError):
            await hear(r, 0.2)
        proxy.heal()
        assert await hear(r) == b"two"


async def test_an_answer_is_lost_after_the_question_arrived() -> None:
    async with echo() as port, TcpProxy.to("127.0.0.1", port) as proxy, line(proxy) as (r, w):
        assert await say(w, r, b"one") == b"one"
        proxy.links[0].loses_next_answer = True
        w.write(b"two")
        with pytest.raises(ConnectionResetError):
            await hear(r)


async def test_new_lines_are_refused_or_never_answered() -> None:
    async with echo() as port, TcpProxy.to("127.0.0.1", port) as proxy:
        proxy.is_mute = True
        async with line(proxy) as (r, w):
            w.write(b"hello?")
            with pytest.raises(TimeoutError):
                await hear(r, 0.2)
            proxy.heal()
            with pytest.raises(ConnectionResetError):
                await hear(r)
        proxy.is_refusing = True
        async with line(proxy) as (r, w):
            with pytest.raises(ConnectionResetError):
                await hear(r)


async def test_a_dead_target_is_passed_over() -> None:
    async with (
        echo() as port,
        TcpProxy(lambda: [("127.0.0.1", 1), ("127.0.0.1", port)]) as proxy,
        line(proxy) as (r, w),
    ):
        assert await say(w, r, b"hello") == b"hello"


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"+OK\r\n", 5),
        (b":12\r\nrest", 5),
        (b"$3\r\nabc\r\n", 9),
        (b"$-1\r\n", 5),
        (b"$3\r\nab", 0),
        (b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", 19),
        (b"*2\r\n$1\r\na\r\n", 0),
        (b"%1\r\n+a\r\n:1\r\n", 12),
        (b"*-1\r\n", 5),
        (b"", 0),
    ],
)
def test_a_resp_value_is_measured(value: bytes, size: int) -> None:
    assert measure(value) == size


@pytest.fixture
def redis_port(redis_url: str) -> int:
    return int(redis_url.rpartition(":")[2].partition("/")[0])


async def test_publishes_are_lost_and_doubled_and_every_answer_keeps_its_place(
    redis_port: int,
) -> None:
    async with (
        RedisProxy.to("127.0.0.1", redis_port, seed=1) as proxy,
        redis.asyncio.Redis(port=proxy.port) as client,
        redis.asyncio.Redis(port=redis_port) as direct,
    ):
        listener = direct.pubsub(ignore_subscribe_messages=True)
        await listener.subscribe("topic")
        await eventually(lambda: is_heard(direct))
        proxy.lost = proxy.doubled = 0.4
        pipeline = client.pipeline(transaction=False)
        for number in range(100):
            pipeline.set(f"key{number}", number)
            pipeline.publish("topic", b"%d" % number)
            pipeline.get(f"key{number}")
        answers = await pipeline.execute()
        assert answers[2::3] == [b"%d" % number for number in range(100)]
        got = [number for number in range(100) if answers[3 * number + 1] == 1]
        assert proxy.losses == 100 - len(got)
        assert 20 < proxy.losses < 60
        heard: list[int] = []
        proxy.heal()
        await client.publish("topic", b"-1")
        async with asyncio.timeout(5):
            while not heard or heard[-1] != -1:
                message = await listener.get_message(timeout=2)
                if message is not None:
                    heard.append(int(message["data"]))
        assert sorted(set(heard) - {-1}) == got
        assert len(heard) - 1 > len(got), "some came twice"
        await listener.aclose()


async def test_a_publish_can_be_betrayed(redis_port: int) -> None:
    async with (
        RedisProxy.to("127.0.0.1", redis_port) as proxy,
        redis.asyncio.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0)) as client,
    ):

        async def keep() -> bool:
            return True

        async def betray() -> bool:
            proxy.cut()
            return True

        assert await client.publish("topic", b"1") == 0
        proxy.before_publish = keep
        pipeline = client.pipeline(transaction=False).publish("topic", b"2").echo("after")
        assert await pipeline.execute() == [0, b"after"]
        proxy.before_publish = betray
        with pytest.raises(redis.ConnectionError):
            await client.publish("topic", b"3")
        assert (proxy.publishes, proxy.losses) == (3, 2)


# Not a timeout, which is an OSError too: the line is cut as soon as PostgreSQL has answered.
LOST = (ConnectionError, asyncpg.PostgresConnectionError)


@pytest.mark.parametrize("is_simple", [True, False], ids=["simple", "extended"])
async def test_a_commit_is_held_cut_before_or_loses_its_answer(
    postgres: Postgres, *, is_simple: bool
) -> None:
    url = postgres.create_database()
    host, port = url.rpartition("@")[2].partition("/")[0].split(":")
    async with PostgresProxy.to(host, int(port)) as proxy:
        through = url.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
        direct = await asyncpg.connect(url)
        await direct.execute("CREATE TABLE notes (word TEXT)")

        async def write(word: str) -> None:
            connection = await asyncpg.connect(through)
            try:
                await connection.execute("BEGIN")
                await connection.execute("INSERT INTO notes VALUES ($1)", word)
                async with asyncio.timeout(5):
                    commit = connection.execute if is_simple else connection.fetch
                    await commit("COMMIT")
            finally:
                connection.terminate()

        await write("plain")
        proxy.hold_commit_seconds = 0.05
        await write("held")
        assert proxy.commits == 2
        proxy.cut_before = 1
        with pytest.raises(LOST):
            await write("cut")
        proxy.lose_answers = 1
        with pytest.raises(LOST):
            await write("unheard")
        words = await direct.fetch("SELECT word FROM notes")
        assert [row["word"] for row in words] == ["plain", "held", "unheard"]
        await direct.close()
    postgres.drop_database(url)


def test_only_the_execution_of_a_commit_counts() -> None:
    finder = CommitFinder()
    messages = [
        (b"Q\0\0\0\x0b commit\0", True),
        (b"Q\0\0\0\x0bBEGIN\0", False),
        (b"P\0\0\0\0mine\0COMMIT\0\0\0", False),
        (b"B\0\0\0\0\0mine\0\0\0\0\0\0\0", False),
        (b"E\0\0\0\0\0\0\0\0\0", True),
        (b"P\0\0\0\0\0SELECT 1\0\0\0", False),
        (b"B\0\0\0\0\0\0\0\0\0\0\0\0", False),
        (b"E\0\0\0\0\0\0\0\0\0", False),
        (b"B\0\0\0\0\0mine\0\0\0\0\0\0\0", False),
        (b"E\0\0\0\0\0\0\0\0\0", True),
    ]
    assert [finder.commits(message) for message, _ in messages] == [it for _, it in messages]


async def holds(value: object) -> bool:
    return bool(value)


async def is_empty(proxy: TcpProxy) -> bool:
    return not proxy.links


async def is_heard(client: "redis.asyncio.Redis") -> bool:
    return bool(await client.pubsub_numsub("topic") == [(b"topic", 1)])
