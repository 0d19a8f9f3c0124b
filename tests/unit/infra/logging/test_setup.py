"""The whole set-up in processes of its own: what a real server writes, and four writers on one file."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.infra.logging.formatters import ConsoleFormatter, JsonFormatter
from tests.support.ports import free_port

WRITER = """
import logging, sys, structlog
from pathlib import Path
from app.infra.logging.setup import configure_logging
from app.settings import LogSettings

number, path = sys.argv[1], Path(sys.argv[2])
configure_logging(LogSettings(LOG_FILE=path, LOG_MAX_BYTES=40_000, LOG_BACKUPS=1000))
logging.getLogger().handlers[-1].setLevel(logging.CRITICAL)
log = structlog.stdlib.get_logger("app.writer")
for line in range(1500):
    log.info("line", writer=int(number), line=line, filler="x" * 40)
"""

SERVER = """
import logging, sys
from pathlib import Path
import structlog, uvicorn
from fastapi import FastAPI, WebSocket
from app.infra.logging.setup import configure_logging
from app.settings import LogSettings
from app.transport.http.middleware import install_edge

app = FastAPI(openapi_url=None)

@app.post("/echo/{name}")
async def echo(name: str, body: dict[str, object]) -> None:
    structlog.stdlib.get_logger("app.echo").debug("echo", text=body["text"], phone=body["phone"], note=str(body))
    logging.getLogger("some.library").warning("saw %s at %s", body["phone"], "/ws/" + body["token"])
    raise RuntimeError(f"phone {body['phone']} token={body['token']}")

@app.websocket("/ws/{token}")
async def socket(websocket: WebSocket, token: str) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()

install_edge(app, trusted_proxies=(), max_body_size=10_000)
config = uvicorn.Config(app, port=int(sys.argv[1]), log_level="trace", ws="websockets-sansio")
configure_logging(LogSettings(LOG_FILE=Path(sys.argv[2]), LOG_LEVEL="DEBUG"))
uvicorn.Server(config).run()
"""

CLIENT = """
import sys, time
import httpx
from websockets.sync.client import connect

base = sys.argv[1]
for _ in range(100):
    try:
        httpx.get(f"http://{base}/nowhere/MarkerPath")
        break
    except httpx.ConnectError:
        time.sleep(0.1)
body = {"text": "marker-text", "phone": "+79161234567", "token": "MarkerToken0123456789abcdefgh"}
assert httpx.post(f"http://{base}/echo/MarkerName?phone=%2B79161234567", json=body).status_code == 500
with connect(f"ws://{base}/ws/MarkerToken0123456789abcdefgh?secret=MarkerQuery") as socket:
    socket.send("marker-text in a frame")
    socket.recv()
"""

MARKERS = ["marker-text", "9161234567", "MarkerToken", "MarkerQuery", "MarkerName", "MarkerPath"]


def test_four_processes_lose_no_line_over_rotations(directory: Path) -> None:
    path = directory / "app.log"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(n), str(path)]) for n in range(4)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0, 0]
    files = sorted(file for file in directory.iterdir() if file.name.startswith("app.log"))
    assert len(files) > 5, "the test must see rotations"
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sorted((line["writer"], line["line"]) for line in lines) == [
        (w, n) for w in range(4) for n in range(1500)
    ]


def test_each_writer_s_lines_keep_their_order(directory: Path) -> None:
    path = directory / "app.log"
    subprocess.run([sys.executable, "-c", WRITER, "0", str(path)], check=True, timeout=120)
    files = sorted(
        directory.glob("app.log*"),
        key=lambda file: -int(file.suffix[1:]) if file.suffix != ".log" else 0,
    )
    numbers = [json.loads(line)["line"] for file in files for line in file.read_text().splitlines()]
    assert numbers == list(range(1500))


def test_no_marker_reaches_file_or_console_at_debug(directory: Path) -> None:
    path, port = directory / "app.log", free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port), str(path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        subprocess.run([sys.executable, "-c", CLIENT, f"127.0.0.1:{port}"], check=True, timeout=60)
    finally:
        server.terminate()
        output, errors = server.communicate(timeout=30)
    logged = path.read_text()
    console = (output + errors).decode()
    events = [json.loads(line)["event"] for line in logged.splitlines()]
    assert {"request", "request_failed", "echo"} <= set(events)
    assert any("/ws/***" in event for event in events), "uvicorn's own line, cleaned"
    for marker in MARKERS:
        assert marker not in logged
        assert marker not in console


@pytest.fixture
def record() -> logging.LogRecord:
    evil = "first\r\nsecond \x1b]0;title\x07 \x9b31m \u202e"
    return logging.LogRecord(
        "x", logging.INFO, "", 0, {"event": "named", "first": evil}, None, None
    )


def test_a_json_line_is_one_line_of_plain_ascii(record: logging.LogRecord) -> None:
    line = JsonFormatter().format(record)
    assert re.fullmatch(r"[\x20-\x7e]+", line)
    assert json.loads(line)["first"].startswith("first\r\nsecond")


def test_a_console_line_cannot_be_forged(record: logging.LogRecord) -> None:
    line = ConsoleFormatter(colored=False).format(record)
    assert line.isprintable()
    assert r"first\r\nsecond \x1b]0;title" in line


def test_a_trace_starts_no_line_of_its_own() -> None:
    error = ValueError("x\n2026-11-23T00:00:00.000Z INFO     forged")
    info = (ValueError, error, None)
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", None, info)
    lines = ConsoleFormatter(colored=False).format(record).splitlines()
    assert all(line.startswith("    | ") for line in lines[1:])
