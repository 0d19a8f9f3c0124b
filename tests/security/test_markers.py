"""A thief of the database, its journals and its log, of Redis or of the server's log finds nothing that
anybody said or is called. With encryption switched off the same search finds it all.
"""

import base64
import itertools
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, nullcontext
from pathlib import Path

import asyncpg
import pytest
import redis

from app.infra.database.tables import METADATA
from tests.conftest import BACKENDS
from tests.contract.test_privacy_of_logs import listen
from tests.support import missing
from tests.support.people import Backend, Deployment, Person
from tests.support.postgres import Postgres, run_postgres_process
from tests.support.redis_server import run_redis
from tests.support.rows import dump, read_rows
from tests.support.servers import Server

pytestmark = pytest.mark.anyio

ADDRESS = "203.0.113.177"
OFF = {"ENCRYPT_PERSONAL_DATA": "false", "ENCRYPT_MESSAGES": "false"}
SEEN_PLAIN = ("phone", "first", "last", "bio", "device", "edited", "title", "about", "contact")


class Place:
    """A backend of one's own, and every file that it leaves behind."""

    def __init__(self, backend: Backend, files: list[Path]) -> None:
        self.backend = backend
        self._files = files

    async def stored(self) -> bytes:
        """The database's rows, and all of its files: tables, indexes, journals, write-ahead log, log.

        Files alone would hide what is compressed in them, rows alone what was overwritten or is in the log.
        """
        parts = [await dump(self.backend.deployment), *await dump_rows(self.backend.deployment)]
        for root in self._files:
            parts += [file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()]
        return b"\0".join(parts)

    def in_redis(self) -> bytes:
        """Every key with its value, as it is and as it would be saved, where long ones are compressed."""
        url = self.backend.deployment.details.get("redis_url")
        if url is None:
            return b""
        with redis.Redis.from_url(url) as client:
            parts = [
                part
                for key in client.keys("*")
                for part in (key, client.dump(key) or b"", *read_redis(client, key))
            ]
        return b"\0".join(parts)

    def logged(self) -> bytes:
        return "".join(n.output() + n.log() for n in self.backend.deployment.nodes).encode()


def read_redis(client: redis.Redis, key: bytes) -> Iterator[bytes]:
    match client.type(key):
        case b"string":
            yield client.get(key) or b""
        case b"hash":
            yield from itertools.chain(*client.hgetall(key).items())
        case b"zset":
            yield from client.zrange(key, 0, -1)
        case b"set":
            yield from client.smembers(key)
        case b"list":
            yield from client.lrange(key, 0, -1)
        case b"none":  # it has expired meanwhile
            return
        case other:
            pytest.fail(f"nobody reads a {other!r} here")


async def dump_rows(deployment: Deployment) -> list[bytes]:
    """Every value of every table."""
    found: list[bytes] = []
    for table in METADATA.sorted_tables:
        for row in await read_rows(deployment, f"SELECT * FROM {table.name}"):
            found += [v if isinstance(v, bytes) else str(v).encode() for v in row.values()]
    return found


@pytest.fixture(params=BACKENDS)
def database(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def settings() -> dict[str, str]:
    return {"TRUSTED_PROXIES": "127.0.0.0/8"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
async def open_place(
    database: str, directory: Path, stack: ExitStack, anyio_backend: str
) -> AsyncIterator[object]:
    """A function: settings -> Place."""
    del anyio_backend
    async with AsyncExitStack() as clients:

        async def make(settings: dict[str, str]) -> Place:
            environment, details, files = dict(settings), {}, []
            if database == "postgresql":
                try:
                    cluster = stack.enter_context(run_postgres_process())
                    details["redis_url"] = stack.enter_context(run_redis())
                except missing.Missing as reason:
                    missing.skip("PostgreSQL with Redis", str(reason))
                Postgres(cluster.url)  # waits until it lets us in
                await log_all_statements(cluster.url)
                details["database_url"] = cluster.url
                files = [cluster._directory]
                environment |= {
                    "DATABASE_TYPE": "postgresql",
                    "DATABASE_URL": cluster.url,
                    "USE_REDIS": "true",
                    "REDIS_URL": details["redis_url"],
                }
            server = stack.enter_context(Server(directory, environment))
            details["sqlite_file"] = str(server.var_dir / "messenger.db")
            return Place(Backend(Deployment(database, [server], details), clients), files)

        yield make


async def log_all_statements(url: str) -> None:
    """Everything goes into PostgreSQL's log, with the values of all parameters."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER DATABASE postgres SET log_min_duration_statement = 0")
        await connection.execute("ALTER DATABASE postgres SET log_parameter_max_length = -1")
        await connection.execute("ALTER DATABASE postgres SET log_min_messages = 'log'")
    finally:
        await connection.close()


async def live(backend: Backend) -> dict[str, str]:
    """Two people use everything there is; answers what they would not want found."""
    word = {
        name: f"{name}{secrets.token_hex(6)}"
        for name in (
            "first",
            "last",
            "bio",
            "device",
            "text",
            "edited",
            "title",
            "about",
            "contact",
        )
    }
    # A number of its own: digits that simply count would be found in ids and times.
    anna = await backend.sign_up(
        f"+49171{secrets.randbelow(9 * 10**6) + 10**6}",
        first_name=word["first"],
        last_name=word["last"],
        device_name=word["device"],
    )
    bruno = await backend.sign_up()
    word["phone"], word["address"] = anna.phone, ADDRESS
    word["phone without +"] = anna.phone.removeprefix("+")
    word["national phone"] = anna.phone.removeprefix("+49")
    await anna.put("/users/me", {"bio": word["bio"]})
    contact = {"phone": bruno.phone, "first_name": word["contact"]}
    await anna.post("/users/contacts", {"contacts": [contact]})
    chat = await anna.private_chat(bruno)
    group = await anna.group(word["title"], [bruno], description=word["about"])
    socket = await bruno.connect()
    message = await anna.say(chat, word["text"])
    await socket.expect_message(message["id"])
    await anna.say(group, word["text"])
    await bruno.post(
        "/messages/",
        {
            "chat_id": group["id"],
            "forward_from": {"chat_id": chat["id"], "message_ids": [message["id"]]},
        },
        expect=201,
    )
    await anna.put(f"/messages/{message['id']}", {"text": word["edited"]})
    # One word alone could be a username, which is public and looked up as it is.
    for query in (f"{word['first']} {word['last']}", word["phone"]):
        await bruno.get("/users/search", q=query)
    await visit_from(anna, ADDRESS)
    await backend.sign_in(anna.phone, device_name=word["device"])
    return word


async def visit_from(person: Person, address: str) -> None:
    """Requests through a trusted proxy that names this client: a sign-in that fails among them."""
    headers = {"X-Forwarded-For": address}
    await person.call("GET", "/users/me", headers=headers)
    body = {"phone": person.phone}
    await person.call("POST", "/auth/send-verification", body, headers=headers)
    wrong = {"verification_id": "x" * 32, "code": "000000"}
    await person.call("POST", "/auth/verify-code", wrong, headers=headers)
    await person.call("POST", "/auth/refresh", {"refresh_token": "x" * 43}, headers=headers)


def spellings(secret: str) -> Iterator[bytes]:
    """Raw, UTF-16 of both orders, hexadecimal of both cases, base64 at any alignment."""
    raw = secret.encode()
    yield raw
    yield secret.encode("utf-16-le")
    yield secret.encode("utf-16-be")
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"x" * shift + raw)
            yield encoded[2 * shift : len(encoded) - 4]


def found_in(haystack: bytes, words: dict[str, str]) -> set[str]:
    return {
        name
        for name, secret in words.items()
        if any(spelling in haystack for spelling in spellings(secret))
    }


@pytest.mark.parametrize("is_encrypted", [True, False], ids=["encrypted", "plain"])
async def test_nothing_private_is_found_anywhere(
    open_place, settings: dict[str, str], *, is_encrypted: bool
) -> None:
    place: Place = await open_place(settings if is_encrypted else settings | OFF)
    url = place.backend.deployment.details.get("redis_url")
    with listen(url) if url else nullcontext([]) as heard:
        words = await live(place.backend)
    stored = await place.stored()
    through_redis = place.in_redis() + b"\0".join(heard)
    assert found_in(place.logged(), words) == set()
    assert found_in(through_redis, words) == set()
    if is_encrypted:
        assert found_in(stored, words) == set()
    else:
        # What is found where nothing is hidden proves that it was looked for in the right way.
        assert found_in(stored, words) >= set(SEEN_PLAIN)
    if url:
        assert heard
