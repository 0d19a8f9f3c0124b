"""The README word for word: its commands run in a shell, and the answers that it shows are those that come."""

import ast
import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import ROOT
from tests.support.media import video
from tests.support.photos import make_photo
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

_PATIENCE_SECONDS = 60.0
_END = "--- the block has ended with"


def read_blocks(name: str) -> list[tuple[str, str]]:
    """The fenced blocks of a document: their languages and texts."""
    text = (ROOT / name).read_text()
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


class Tour:
    """What stands in the README from a heading on, taken in its order; port 8000 is that of our server."""

    def __init__(self, heading: str, *, port: int) -> None:
        text = (ROOT / "README.md").read_text()
        before, _, _ = text.partition(f"\n## {heading}")
        skipped = len(re.findall(r"^```", before, re.MULTILINE)) // 2
        self._blocks = iter(read_blocks("README.md")[skipped:])
        self._port = port

    def take(self, language: str) -> str:
        found, text = next(self._blocks)
        assert found == language, text
        return text.replace("localhost:8000", f"localhost:{self._port}")


class Terminal:
    """A shell in which somebody types."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def run(self, block: str) -> str:
        """What the block prints; none of its commands may end with anything but 0."""
        self.type(f"{block.rstrip()}\nprintf '\\n%s %s\\n' '{_END}' $?\n")
        lines: list[str] = []
        while not (line := await self.read_line()).startswith(_END):
            lines.append(line)
        said = "\n".join(lines).strip()
        assert line == f"{_END} 0", said
        return said

    def type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def end(self) -> None:
        """As by Ctrl-C, for what runs until then."""
        self._process.send_signal(signal.SIGINT)

    async def read_line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE_SECONDS):
            line = await self._process.stdout.readline()
        assert line, "the shell has ended"
        return line.decode().rstrip("\n")

    async def read_frame(self) -> dict[str, Any]:
        """The next that `websockets` prints as received, among what moves the cursor."""
        while "< {" not in (line := await self.read_line()):
            continue
        return json.loads(line.partition("< ")[2])


@asynccontextmanager
async def terminal(server: Server, variables: str = "") -> AsyncIterator[Terminal]:
    """Where `make run` was started; `variables` are what `declare -p` printed in another."""
    venv = Path(sys.prefix)
    environment = {
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "clients" / "python" / "src"),
        "PYTHONUNBUFFERED": "1",
    }
    process = await asyncio.create_subprocess_exec(
        "bash",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=server.directory,
        env=environment,
        start_new_session=True,
    )
    try:
        opened = Terminal(process)
        await opened.run(f"set -o pipefail\n{variables}")
        yield opened
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            raise


def shape(value: object) -> object:
    """Names of members and kinds of values: what a document promises, whatever the ids of the day."""
    match value:
        case dict():
            return {name: shape(member) for name, member in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list():
            return [shape(member) for member in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            return type(value).__name__


def shown_frames(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[2:]) for line in text.splitlines() if line.startswith("< ")]


@pytest.fixture
def server(directory: Path) -> Iterator[Server]:
    """As `SMS_PROVIDER=file make run` in an empty folder: with the limits that everybody has."""
    server = Server(directory)
    for name in [name for name in server.environment if "_LIMIT" in name]:
        del server.environment[name]
    (directory / ".venv").symlink_to(sys.prefix)
    (directory / "beach.jpg").write_bytes(make_photo(1, width=1600, height=1200))
    (directory / "me.jpg").write_bytes(make_photo(2))
    (directory / "film.mp4").write_bytes(video(seconds=2))
    with server:
        yield server
        assert server.faults() == []


async def test_two_people_talk(server: Server) -> None:
    tour = Tour("Five minutes: two people talk", port=server.port)
    assert tour.take("sh") == "SMS_PROVIDER=file make run\n"
    async with terminal(server) as first:
        asked = json.loads(await first.run(tour.take("sh")))
        assert shape(asked) == shape(json.loads(tour.take("json")))
        await first.run(tour.take("sh"))
        writing = tour.take("sh")
        shown_message = shape(json.loads(tour.take("json")))
        assert shape(json.loads(await first.run(writing))) == shown_message
        variables = await first.run("declare -p API ANNA BOB CHAT")
        async with terminal(server, variables) as second, terminal(server, variables) as third:
            second.type(tour.take("sh"))
            (hello,) = shown_frames(tour.take(""))
            assert shape(await second.read_frame()) == shape(hello)

            send = writing[writing.index("curl -s $API/messages/") :]
            await third.run(send.replace("Hello Anna", "Are you there?"))
            (pushed,) = shown_frames(tour.take(""))
            said = await second.read_frame()
            assert shape(said) == shape(pushed)
            assert said["data"]["text"] == pushed["data"]["text"]

            talk = tour.take("")
            second.type(talk.partition("\n")[0].removeprefix("> ") + "\n")
            for frame in shown_frames(talk):
                assert shape(await second.read_frame()) == shape(frame)

        sent = json.loads(await first.run(tour.take("sh")))
        shown = json.loads(tour.take("json"))
        assert shape(sent) == shape(shown)
        assert sent["text"] == shown["text"]
        read = await first.run(tour.take("sh"))
        size = (server.directory / "copy.jpg").stat().st_size
        assert re.sub(r"\d+\n$", f"{size}\n", tour.take("")) == read + "\n"

        (server.directory / "upload.py").write_text(tour.take("python"))
        assert "`BOB=$BOB python upload.py`" in (ROOT / "README.md").read_text()
        assert (await first.run("BOB=$BOB python upload.py")).isdigit()

        photo = ast.literal_eval(await first.run(tour.take("sh")))
        assert shape(photo) == shape(ast.literal_eval(tour.take("")))


async def test_the_python_client_notes_something(server: Server) -> None:
    tour = Tour("With the Python client", port=server.port)
    assert tour.take("sh") == "pip install ./clients/python\npython talk.py\n"
    (server.directory / "talk.py").write_text(tour.take("python"))
    shown = tour.take("").splitlines()
    async with terminal(server) as opened:
        opened.type("exec python talk.py\n")

        async def is_sent() -> bool:
            return bool(server.codes("+491701234567"))

        await eventually(is_sent, timeout_seconds=_PATIENCE_SECONDS, what="the code")
        opened.type(f"{server.codes('+491701234567')[-1]}\n")
        line = await opened.read_line()
        assert line == re.sub(r": \d+$", ": ", shown[0]) + shown[1]
        opened.end()


def test_both_languages_show_the_same_commands() -> None:
    def bare(block: tuple[str, str]) -> tuple[str, str]:
        return block[0], re.sub(r" +# .*", "", block[1])

    english, russian = ([*map(bare, read_blocks(name))] for name in ("README.md", "README.ru.md"))
    assert english == russian
