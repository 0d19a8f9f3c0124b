"""Lines to PostgreSQL and Redis under TLS (L3): the server talks to whoever proves to be the one that the
settings name, and to nobody else.

In front of each stands a proxy that ends TLS with a certificate of the test's choice.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support.certificates import make_certificate
from tests.support.people import Backend, Deployment
from tests.support.postgres import Postgres
from tests.support.servers import Server, ServerFailed
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

# PostgreSQL: "may we speak TLS?" is eight bytes, the answer to it one (SSLRequest in its documentation).
_QUESTION_BYTES = 8
_YES = b"S"


@dataclass
class TlsProxy:
    """`lines`: how many have proved to speak TLS; `refused`: handshakes that came to nothing."""

    port: int = 0
    lines: int = 0
    refused: int = 0


@asynccontextmanager
async def tls_in_front_of(
    url: str, certificate: Path, *, is_asked_first: bool
) -> AsyncIterator[TlsProxy]:
    """Ends TLS for the server behind `url`. `is_asked_first`: as PostgreSQL, which begins in the clear."""
    place, proxy = urlsplit(url), TlsProxy()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "fullchain.pem", certificate / "privkey.pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            if is_asked_first:
                await reader.readexactly(_QUESTION_BYTES)
                writer.write(_YES)
            try:
                await writer.start_tls(context)
            except (ssl.SSLError, ConnectionError):
                proxy.refused += 1
                return
            proxy.lines += 1
            behind = await asyncio.open_connection(place.hostname, place.port)
            await asyncio.gather(carry(reader, behind[1]), carry(behind[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@pytest.fixture
def certificates(directory: Path) -> dict[str, Path]:
    """`right`: for localhost. `foreign`: for it too, and signed by somebody else. `other`: for another name."""
    hosts = {"right": "localhost", "foreign": "localhost", "other": "db.example.org"}
    made = {name: directory / name for name in hosts}
    for name, host in hosts.items():
        make_certificate(made[name], host=host)
    return made


def through(url: str, proxy: TlsProxy, query: str) -> str:
    place = urlsplit(url)
    user, mark, _ = place.netloc.rpartition("@")
    netloc = f"{user}{mark}localhost:{proxy.port}"
    return urlunsplit(place._replace(netloc=netloc, query=query))


def settings_for(url: str, trusted: Path) -> dict[str, str]:
    return {
        "DATABASE_TYPE": "postgresql",
        "DATABASE_URL": url,
        "PGSSLROOTCERT": str(trusted / "fullchain.pem"),
    }


async def test_a_postgresql_that_proves_who_it_is_is_used(
    directory: Path, postgres: Postgres, certificates: dict[str, Path]
) -> None:
    url = postgres.create_database()
    right = certificates["right"]
    async with tls_in_front_of(url, right, is_asked_first=True) as proxy:
        address = through(url, proxy, "sslmode=verify-full")
        server = Server(directory / "server", settings_for(address, right))
        await asyncio.to_thread(server.start)
        assert proxy.lines > 0
        assert proxy.refused == 0
        await asyncio.to_thread(server.stop)
    assert server.faults() == []


@pytest.mark.parametrize(
    ("shown", "trusted"), [("foreign", "right"), ("other", "other"), ("none", "right")]
)
async def test_another_postgresql_is_told_nothing(
    directory: Path, postgres: Postgres, certificates: dict[str, Path], shown: str, trusted: str
) -> None:
    url = postgres.create_database()
    certificate = certificates.get(shown, certificates["right"])
    async with tls_in_front_of(url, certificate, is_asked_first=True) as proxy:
        address = through(url, proxy, "sslmode=verify-full")
        if shown == "none":  # the cluster of the tests itself, which offers no TLS
            address = f"{url}?sslmode=verify-full"
        server = Server(directory / "server", settings_for(address, certificates[trusted]))
        with pytest.raises(ServerFailed):
            await asyncio.to_thread(server.start)
        said = server.output()
        assert "DATABASE_URL: the database does not answer" in said
        assert "Traceback" not in said
        assert proxy.lines == 0


@pytest.mark.parametrize("shown", ["right", "foreign", "other"])
async def test_redis_is_used_if_it_proves_who_it_is(
    directory: Path, redis_url: str, certificates: dict[str, Path], shown: str
) -> None:
    async with tls_in_front_of(redis_url, certificates[shown], is_asked_first=False) as proxy:
        trusted = certificates["other" if shown == "other" else "right"]
        query = f"ssl_ca_certs={trusted / 'fullchain.pem'}"
        address = through(redis_url, proxy, query).replace("redis://", "rediss://")
        server = Server(directory / "server", {"USE_REDIS": "true", "REDIS_URL": address})
        await asyncio.to_thread(server.start)

        async def has_tried() -> bool:
            return proxy.lines + proxy.refused > 0

        await eventually(has_tried, timeout_seconds=20, what="a line to Redis")
        # Without Redis, which is no source of truth, people are served all the same.
        await expect_service(server)
        assert (proxy.lines > 0) == (shown == "right")
        assert (proxy.refused > 0) == (shown != "right")
        await asyncio.to_thread(server.stop)


async def expect_service(server: Server) -> None:
    async with AsyncExitStack() as stack:
        backend = Backend(Deployment("sqlite", [server]), stack)
        await asyncio.to_thread(lambda: backend.deployment.openapi)
        await backend.sign_up()
