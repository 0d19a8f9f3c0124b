"""The client of `benchmarks.files`, as a process of its own: sends and takes one file at a time with as little
work as a client can have, so that the server is what is measured.

Reads one job as a line of JSON, prints one line of JSON.
"""

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

_PIECE = 1 << 20
_HEAD_END = b"\r\n\r\n"


def main() -> None:
    job = json.loads(sys.stdin.readline())
    drive = {"upload": upload, "download": download}[job["kind"]]
    print(json.dumps(drive(job)))


def upload(job: dict[str, Any]) -> dict[str, Any]:
    """The file of `job`, between what stands before and behind it in the body; timed to the answer."""
    before, behind = job["before"].encode(), job["behind"].encode()
    file = Path(job["file"])
    length = len(before) + file.stat().st_size + len(behind)
    started = time.perf_counter()
    with connect(job) as line, file.open("rb") as content:
        line.sendall(request(job, f"Content-Length: {length}") + before)
        line.sendfile(content)
        line.sendall(behind)
        status, headers, rest = read_head(line)
        body = rest + take(line, headers, len(rest))[1]
    if status not in job["expect"]:
        sys.exit(f"{job['method']} {job['path']} -> {status} {body[:500]!r}")
    elapsed = time.perf_counter() - started
    return {"seconds": elapsed, "bytes": file.stat().st_size, "answer": body.decode()}


def download(job: dict[str, Any]) -> dict[str, Any]:
    """The whole file, thrown away; timed from the request to its last byte."""
    started = time.perf_counter()
    with connect(job) as line:
        line.sendall(request(job))
        status, headers, rest = read_head(line)
        if status not in job["expect"]:
            sys.exit(f"{job['method']} {job['path']} -> {status} {rest[:500]!r}")
        received, _ = take(line, headers, len(rest), keep=False)
    return {"seconds": time.perf_counter() - started, "bytes": received}


def connect(job: dict[str, Any]) -> socket.socket:
    return socket.create_connection((job["host"], job["port"]), timeout=600)


def request(job: dict[str, Any], *headers: str) -> bytes:
    lines = [f"{job['method']} {job['path']} HTTP/1.1", f"Host: {job['host']}", *headers]
    lines += ["Connection: close", *job["headers"]]
    return "\r\n".join(lines).encode() + _HEAD_END


def read_head(line: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, and what came of the body with them."""
    head = b""
    while _HEAD_END not in head:
        piece = line.recv(65536)
        if not piece:
            sys.exit(f"the line was closed behind {head!r}")
        head += piece
    head, _, rest = head.partition(_HEAD_END)
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (text.partition(":") for text in lines)
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, rest


def take(
    line: socket.socket, headers: dict[str, str], received: int, *, keep: bool = True
) -> tuple[int, bytes]:
    """How long the body is in all, and what of it was still to come."""
    length = int(headers.get("content-length", 0))
    kept: list[bytes] = []
    piece = memoryview(bytearray(_PIECE))
    while received < length:
        size = line.recv_into(piece)
        if not size:
            sys.exit(f"the line was closed after {received} of {length} bytes")
        received += size
        if keep:
            kept.append(bytes(piece[:size]))
    return received, b"".join(kept)


if __name__ == "__main__":
    main()
