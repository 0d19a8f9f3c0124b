"""The real nginx with deploy/nginx.conf, and an upstream that tells what reached it."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.deploy.dockerfile import ROOT
from tests.support import missing
from tests.support.ports import free_port, wait_for_port

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
_TEMPORARY_FILES = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Proxy:
    """A running nginx; its logs are whatever lies in `logs`."""

    def __init__(self, directory: Path, port: int, tls_port: int) -> None:
        self.logs = directory / "logs"
        self.bodies = directory / "client_body"
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.tls_url = f"https://127.0.0.1:{tls_port}"
        self.websocket_url = f"ws://127.0.0.1:{port}"

    def logged(self) -> str:
        """All that nginx wrote, access and error log."""
        return "".join(file.read_text() for file in sorted(self.logs.iterdir()))

    def wait_for_line(self, part: str, timeout_seconds: float = 30) -> str:
        """The first line of the access log with this part; it is written when a request ends."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            for line in (self.logs / "access.log").read_text().splitlines():
                if part in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line with {part} in\n{self.logged()}")


@contextmanager
def run_nginx(directory: Path, *upstream_ports: int, tls: Path | None = None) -> Iterator[Proxy]:
    """nginx on a free port before `upstream_ports`; `tls` holds tls.conf with its certificate."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        missing.skip("deploy/nginx.conf", "no nginx on the PATH")
    proxy = Proxy(directory, free_port(), free_port())
    for folder in ("logs", "messenger", *_TEMPORARY_FILES):
        (directory / folder).mkdir(parents=True)
    # Workers of an nginx started by root are somebody else.
    for path in (directory, *directory.iterdir()):
        path.chmod(0o777)
    if tls:
        shutil.copytree(tls, directory / "messenger", dirs_exist_ok=True)
    file = directory / "nginx.conf"
    file.write_text(_adapt(CONFIGURATION.read_text(), directory, proxy, upstream_ports))
    for included in (directory / "messenger").glob("*.conf"):
        text = included.read_text().replace("listen 443", f"listen {proxy.tls_url[8:]}")
        included.write_text(text.replace("/etc/nginx/messenger", str(directory / "messenger")))
    output = directory / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [
                program,
                "-c",
                str(file),
                "-e",
                str(directory / "logs/error.log"),
                "-g",
                "daemon off;",
            ],
            stdout=stream,
            stderr=stream,
        )
    try:
        try:
            wait_for_port(proxy.port, process)
        except RuntimeError as error:
            raise AssertionError(f"{error}\n{output.read_text()}{proxy.logged()}") from error
        yield proxy
    finally:
        process.terminate()
        process.wait(timeout=10)


def _adapt(text: str, directory: Path, proxy: Proxy, upstream_ports: Sequence[int]) -> str:
    """Places and addresses of this test; every other line stays as it is deployed."""
    upstream = re.search(r"^ *server app:8000.*;\n", text, re.MULTILINE)
    assert upstream, "nginx.conf has no upstream app:8000 any more"
    line = upstream[0]
    text = text.replace(
        line, "".join(line.replace("app:8000", f"127.0.0.1:{port}") for port in upstream_ports)
    )
    replacements = {
        "listen 80 ": f"listen 127.0.0.1:{proxy.port} ",
        "/var/log/nginx": str(directory / "logs"),
        "/var/run/nginx.pid": str(directory / "nginx.pid"),
        "/etc/nginx/messenger": str(directory / "messenger"),
        "worker_processes auto;": "worker_processes 1;",
        "worker_rlimit_nofile 65536;": "worker_rlimit_nofile 1024;",
        "worker_connections 32768;": "worker_connections 512;",
    }
    for old, new in replacements.items():
        assert text.count(old) >= 1, f"nginx.conf has no {old!r} any more"
        text = text.replace(old, new)
    places = "".join(f"{name}_temp_path {directory / name};\n" for name in _TEMPORARY_FILES)
    return text.replace("http {\n", f"http {{\n{places}", 1)


@asynccontextmanager
async def run_echo(port: int = 0) -> AsyncIterator[int]:
    """An upstream whose answer is the list of the headers that it got; answers its port.

    Behind the block its connections are closed and new ones refused.
    """
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode().split("\r\n")[1:-2]
                pairs = [line.split(": ", 1) for line in lines]
                sizes = [int(value) for name, value in pairs if name.lower() == "content-length"]
                await reader.readexactly(sum(sizes))
                body = json.dumps([[name.lower(), value] for name, value in pairs]).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        for writer in writers:
            writer.close()
