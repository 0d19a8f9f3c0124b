"""Files: how fast they go in and out, and what that takes of the server's memory.

    make bench-files args="[--megabytes 1024] [--only local|s3] [--photos 20]"

A file of random bytes is uploaded as a document and downloaded again, kept encrypted and plain, in a
directory and in an S3 store; beside it, in the same run, nginx and a plain Starlette FileResponse send the
same object from the same disk, and take an upload. Then photos are uploaded, each of which is decoded,
encoded anew and given two thumbnails. Writes the section between its marks in docs/benchmarks.md when
everything was measured.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Self

import httpx
import psutil
from PIL import Image

from benchmarks.run import NO_RATE_LIMITS
from tests.support.people import API, Backend, Deployment, Person
from tests.support.ports import free_port, wait_for_port
from tests.support.s3_server import run_s3_server
from tests.support.servers import ROOT, Server

REPEATS = 3
# The S3 server of the tests keeps its objects in memory.
S3_MEGABYTES = 256
PHOTO_CLIENTS = 4
PHOTO_SIZES = {"2 megapixels": (1632, 1224), "12 megapixels": (4000, 3000)}
_MIB = 1 << 20
_SAMPLE_SECONDS = 0.01
_PAGE = ROOT / "docs" / "benchmarks.md"
_HEADING = "## Files"
_BEGIN = "<!-- figures of benchmarks.files: begin -->"
_END = "<!-- figures of benchmarks.files: end -->"
_PLACES = {"local": "directory", "s3": "S3"}
_KINDS = {True: "encrypted", False: "plain"}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whoever takes and gives a file: where, as whom, and the process whose memory counts."""

    port: int
    pid: int
    headers: tuple[str, ...] = ()


class MemoryWatch:
    """The resident memory of a process and its children while the block runs."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self._now()
        self.highest = self.before

    @property
    def grown_mib(self) -> float:
        return (self.highest - self.before) / _MIB

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECONDS):
            self.highest = max(self.highest, self._now())

    def _now(self) -> int:
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--only", choices=list(_PLACES))
    parser.add_argument("--photos", type=int, default=20)
    options = parser.parse_args()
    with ExitStack() as stack:
        # Beside the sources, not in /tmp, which is often memory: the disk is part of what is measured.
        directory = Path(tempfile.mkdtemp(prefix=".bench-files-", dir=ROOT))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        rows: dict[str, Row] = {}
        for place in [options.only] if options.only else list(_PLACES):
            size = options.megabytes if place == "local" else min(options.megabytes, S3_MEGABYTES)
            rows |= measure_place(place, directory, size)
        photos = measure_photos(directory, options.photos)
    lines = render(rows, photos, options)
    print("\n".join(lines))
    if not options.only:
        write_section(lines)


def measure_place(place: str, directory: Path, megabytes: int) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    content = make_content(directory / "content", megabytes)
    for encrypt in (True, False):
        name = f"{_PLACES[place]}, {_KINDS[encrypt]}"
        with ExitStack() as stack:
            environment = {"ENCRYPT_FILES": str(encrypt).lower()}
            if place == "s3":
                store = stack.enter_context(run_s3_server())
                store.make_bucket("files")
                environment |= store.environment("files")
            home = directory / f"{place}-{encrypt}"
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            server = stack.enter_context(open_server(home, environment))
            rows[name] = measure_server(server, content, megabytes)
            announce(name, rows[name])
            if place == "local" and not encrypt:
                rows |= measure_others(stack, find_object(server, content), content, home)
    return rows


def make_content(file: Path, megabytes: int) -> Path:
    with file.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(os.urandom(_MIB))
    return file


@contextmanager
def open_server(directory: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """On default settings, but without limits of rates."""
    with Server(directory, NO_RATE_LIMITS | environment, forked=False) as server:
        yield server
        server.stop()


def measure_server(server: Server, content: Path, megabytes: int) -> Row:
    """Each upload by somebody else: equal uploads of one person are kept once."""
    people = asyncio.run(sign_up(server, REPEATS))
    targets = [
        Target(port=server.port, pid=server.pid, headers=(bearer(person),)) for person in people
    ]
    uploads = [
        upload(target, content, path=f"{API}/files/upload", boundary="x" * 32) for target in targets
    ]
    url = json.loads(uploads[-1]["answer"])["url"]
    downloads = [download(targets[-1], url, megabytes) for _ in range(REPEATS)]
    return summarise(uploads, downloads)


async def sign_up(server: Server, count: int) -> list[Person]:
    async with AsyncExitStack() as stack:
        return await Backend(Deployment("sqlite", [server], {}), stack).people(count)


def bearer(person: Person) -> str:
    return f"Authorization: Bearer {person.access_token}"


def find_object(server: Server, content: Path) -> Path:
    """What was stored, as it lies on the disk."""
    size = content.stat().st_size
    files = (it for it in server.var_dir.rglob("*") if it.is_file())
    return next(it for it in files if it.stat().st_size == size)


def measure_others(stack: ExitStack, stored: Path, content: Path, home: Path) -> dict[str, Row]:
    """nginx and Starlette with the same object."""
    shared = home / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    (shared / "object").hardlink_to(stored)
    (shared / "object").chmod(0o644)
    megabytes = content.stat().st_size // _MIB
    rows: dict[str, Row] = {}
    floor = stack.enter_context(run_floor(shared))
    rows["Starlette"] = summarise(
        [upload(floor, content, path="/files") for _ in range(REPEATS)],
        [download(floor, "/files/object", megabytes) for _ in range(REPEATS)],
    )
    announce("Starlette", rows["Starlette"])
    nginx = stack.enter_context(run_nginx(home / "nginx", shared))
    if nginx is not None:
        rows["nginx"] = summarise(
            [
                upload(nginx, content, path=f"/put-{number}", method="PUT")
                for number in range(REPEATS)
            ],
            [download(nginx, "/object", megabytes) for _ in range(REPEATS)],
        )
        announce("nginx", rows["nginx"])
    return rows


@contextmanager
def run_floor(directory: Path) -> Iterator[Target]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.file_floor", str(port), str(directory)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for_port(port, process)
        yield Target(port=port, pid=process.pid)
    finally:
        process.terminate()
        process.wait(timeout=20)


_NGINX = """
worker_processes 1;
pid {home}/nginx.pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_max_body_size 0;
    client_body_temp_path {root}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location / {{ dav_methods PUT; }}
    }}
}}
"""


@contextmanager
def run_nginx(home: Path, root: Path) -> Iterator[Target | None]:
    """None where there is none. Its uploads are renamed when they are whole, and not synced to the disk."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        print("nginx is not on the PATH: not measured", flush=True)
        yield None
        return
    port = free_port()
    home.mkdir()
    configuration = home / "nginx.conf"
    configuration.write_text(_NGINX.format(home=home, root=root, port=port))
    command = [program, "-c", str(configuration), "-e", str(home / "error.log")]
    process = subprocess.Popen([*command, "-g", "daemon off;"])
    try:
        wait_for_port(port, process)
        yield Target(port=port, pid=process.pid)
    finally:
        process.terminate()
        process.wait(timeout=20)


def upload(
    target: Target, content: Path, *, path: str, method: str = "POST", boundary: str | None = None
) -> Row:
    """`boundary`: as the one file of a multipart form, of purpose document."""
    before = behind = ""
    headers = list(target.headers)
    if boundary is not None:
        headers.append(f"Content-Type: multipart/form-data; boundary={boundary}")
        before = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\ndocument\r\n'
            f"--{boundary}\r\nContent-Disposition: form-data;"
            ' name="file"; filename="content"\r\n\r\n'
        )
        behind = f"\r\n--{boundary}--\r\n"
    job = {
        "kind": "upload",
        "method": method,
        "path": path,
        "headers": headers,
        "expect": [201],
        "file": str(content),
        "before": before,
        "behind": behind,
    }
    return drive(target, job)


def download(target: Target, path: str, megabytes: int) -> Row:
    job = {"kind": "download", "method": "GET", "path": path, "expect": [200]}
    row = drive(target, job | {"headers": list(target.headers)})
    if row["bytes"] != megabytes * _MIB:
        sys.exit(f"{path}: {row['bytes']} bytes instead of {megabytes} MiB")
    return row


def drive(target: Target, job: Mapping[str, object]) -> Row:
    """One job in a process of its own, and how far the server's memory grew meanwhile."""
    line = json.dumps({**job, "host": "127.0.0.1", "port": target.port}).encode() + b"\n"
    command = [sys.executable, "-m", "benchmarks.file_driver"]
    with MemoryWatch(target.pid) as watch:
        done = subprocess.run(command, cwd=ROOT, input=line, stdout=subprocess.PIPE, check=True)
    return {**json.loads(done.stdout), "grown_mib": watch.grown_mib}


def summarise(uploads: Sequence[Row], downloads: Sequence[Row]) -> Row:
    """The median speed, and the largest growth of memory."""
    return {
        "mib": uploads[0]["bytes"] / _MIB,
        "up": statistics.median(speed(row) for row in uploads),
        "up_grown": max(row["grown_mib"] for row in uploads),
        "down": statistics.median(speed(row) for row in downloads),
        "down_grown": max(row["grown_mib"] for row in downloads),
    }


def speed(row: Row) -> float:
    """MB/s."""
    return row["bytes"] / row["seconds"] / 1e6


def announce(name: str, row: Row) -> None:
    print(
        f"{name}: {row['mib']:.0f} MiB, up {row['up']:.0f} MB/s (+{row['up_grown']:.0f} MiB), "
        f"down {row['down']:.0f} MB/s (+{row['down_grown']:.0f} MiB)",
        flush=True,
    )


def measure_photos(directory: Path, count: int) -> dict[str, Row]:
    """Photos of a few people at once, each another picture."""
    home = directory / "photos"
    rows: dict[str, Row] = {}
    with open_server(home, {}) as server:
        people = asyncio.run(sign_up(server, PHOTO_CLIENTS))
        for name, size in PHOTO_SIZES.items():
            pictures = [make_picture(number, size) for number in range(count)]
            with MemoryWatch(server.pid) as watch:
                started = time.perf_counter()
                asyncio.run(send_photos(server, people, pictures))
                elapsed = time.perf_counter() - started
            rows[name] = {"per_second": count / elapsed, "grown_mib": watch.grown_mib}
            print(f"photos of {name}: {count / elapsed:.2f}/s", flush=True)
    return rows


def make_picture(seed: int, size: tuple[int, int]) -> bytes:
    """Grain over coarse shapes: as hard to decode and encode as a photograph."""
    dice = Random(seed)
    coarse = Image.frombytes("RGB", (16, 12), dice.randbytes(16 * 12 * 3)).resize(size)
    grain = Image.effect_noise(size, 12)
    picture = Image.merge("RGB", [Image.blend(band, grain, 0.3) for band in coarse.split()])
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    return stream.getvalue()


async def send_photos(server: Server, people: Sequence[Person], pictures: Sequence[bytes]) -> None:
    waiting = list(pictures)
    async with httpx.AsyncClient(base_url=server.base_url, timeout=120, trust_env=False) as client:

        async def send(person: Person) -> None:
            headers = {"Authorization": f"Bearer {person.access_token}"}
            while waiting:
                answer = await client.post(
                    f"{API}/files/upload",
                    files={"file": ("photo.jpg", waiting.pop())},
                    data={"purpose": "photo"},
                    headers=headers,
                )
                answer.raise_for_status()

        await asyncio.gather(*(send(person) for person in people))


def render(
    rows: Mapping[str, Row], photos: Mapping[str, Row], options: argparse.Namespace
) -> list[str]:
    """The section of the page."""
    floor = rows.get("Starlette")
    lines = [
        f"Written by `make bench-files`: a document of {options.megabytes} MiB of random bytes (on S3 at most",
        f"{S3_MEGABYTES}), each figure the median of {REPEATS}, over one connection, from another process on the same",
        "machine. An upload is answered when it is durable. Starlette is `benchmarks/file_floor.py`: it writes the",
        "body to a file, and gives it by `FileResponse`; nginx takes it by `PUT`, without `fsync`. Both give the",
        "object that ours stored. The S3 store is moto's server, in Python on the same cores: its rows tell what that",
        "costs, not what ours does. Memory is how far the resident memory of all processes of the server rose at",
        f"most. Machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}.",
        "",
        "| | up MB/s | time, Starlette's is 1 | more MiB | down MB/s | time, FileResponse's is 1 | more MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        up, down = (
            f"{floor[way] / row[way]:.2f}" if floor and name != "Starlette" else "-"
            for way in ("up", "down")
        )
        lines.append(
            f"| {name} | {row['up']:,.0f} | {up} | {row['up_grown']:,.0f} "
            f"| {row['down']:,.0f} | {down} | {row['down_grown']:,.0f} |"
        )
    lines += [
        "",
        f"{options.photos} photos by {PHOTO_CLIENTS} people at once, each decoded, encoded anew and given two",
        "thumbnails:",
        "",
        "| photos of | photos/s | thumbnails/s | more memory MiB |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {row['per_second']:.1f} | {2 * row['per_second']:.1f} | {row['grown_mib']:.0f} |"
        for name, row in photos.items()
    ]
    return lines


def write_section(lines: Sequence[str]) -> None:
    page = _PAGE.read_text(encoding="utf-8")
    if _BEGIN not in page:
        page = f"{page.rstrip()}\n\n{_HEADING}\n\n{_BEGIN}\n{_END}\n"
    head, _, rest = page.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    _PAGE.write_text(head + _BEGIN + "\n" + "\n".join(lines) + "\n" + _END + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
