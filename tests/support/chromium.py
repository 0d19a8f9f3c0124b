"""A real Chromium without a window, driven over its own protocol (DevTools); nothing is added to it."""

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect

from tests.support import missing
from tests.support.waiting import eventually

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATIENCE_SECONDS = 60


class PageFault(Exception):  # noqa: N818 - says what happened
    """What a page's script was refused, or threw."""


def find_chromium(what: str) -> str:
    """Its path; skips the test (`what` it is about) where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        missing.skip(what, "there is no chromium on the PATH")
    return found


@dataclass
class Load:
    """What a tab was answered. `headers`: lower case."""

    url: str
    status: int
    headers: Mapping[str, str]


class Page:
    """One tab. `console`: what scripts said. `loads`: what it asked servers for, by Chromium's name for it.
    Pages of `pages` (URL with `made-up` in it -> HTML) come from nowhere, without a policy.
    """

    def __init__(self, line: "Line", session_id: str) -> None:
        self.console: list[str] = []
        self.loads: dict[str, Load] = {}
        self.pages: dict[str, str] = {}
        self._line = line
        self._session_id = session_id
        line.listeners[session_id] = self._hear

    async def prepare(self, headers: Mapping[str, str]) -> Self:
        """Send these headers with everything that it asks for."""
        for domain in ("Page", "Runtime", "Network"):
            await self._call(f"{domain}.enable")
        await self._call("Fetch.enable", patterns=[{"urlPattern": "*made-up*"}])
        await self._call("Network.setExtraHTTPHeaders", headers=dict(headers))
        return self

    async def goto(self, url: str) -> None:
        """Open `url` and wait until it is loaded."""
        loaded = self._line.expect("Page.loadEventFired", self._session_id)
        answer = await self._call("Page.navigate", url=url)
        if "errorText" in answer:
            raise PageFault(answer["errorText"])
        await loaded

    async def open(self, url: str) -> None:
        """As `goto`; what turns out to be something to save leaves the page as it was."""
        loaded = self._line.expect("Page.loadEventFired", self._session_id)
        answer = await self._call("Page.navigate", url=url)
        if "errorText" in answer or answer.get("isDownload", False):
            loaded.cancel()
        else:
            await loaded

    async def run(self, script: str) -> Any:
        """What the body of an async function returns in the page, under the page's own policy.

        Raises:
            PageFault: it threw.
        """
        answer = await self._call(
            "Runtime.evaluate",
            expression=f"(async () => {{ {script} }})()",
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in answer:
            raise PageFault(answer["exceptionDetails"]["exception"].get("description", "thrown"))
        return answer["result"].get("value")

    async def leave_by(self, script: str) -> None:
        """Run what leads to another document, and wait until that is loaded."""
        loaded = self._line.expect("Page.loadEventFired", self._session_id)
        # The script's own page is gone before it can answer.
        await self._line.send("Runtime.evaluate", self._session_id, expression=script)
        await loaded

    async def rest(self) -> None:
        """Time for what is not to happen: no event announces that nothing was run."""
        await asyncio.sleep(0.2)

    async def _call(self, method: str, **parameters: object) -> Any:
        return await self._line.call(method, self._session_id, **parameters)

    async def _hear(self, method: str, parameters: Any) -> None:
        match method:
            case "Runtime.consoleAPICalled":
                self.console += [str(it.get("value")) for it in parameters["args"]]
            case "Network.responseReceived":
                said = parameters["response"]
                headers = {name.lower(): value for name, value in said["headers"].items()}
                load = Load(said["url"], said["status"], headers)
                self.loads[parameters["requestId"]] = load
            case "Fetch.requestPaused":
                body = self.pages.get(parameters["request"]["url"], "")
                await self._line.send(
                    "Fetch.fulfillRequest",
                    self._session_id,
                    requestId=parameters["requestId"],
                    responseCode=200,
                    responseHeaders=[{"name": "Content-Type", "value": "text/html"}],
                    body=base64.b64encode(body.encode()).decode(),
                )
            case _:
                return


class Canary:
    """A server of the attacker's: whoever asks it for anything has run or loaded what it should not."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.url = ""

    @asynccontextmanager
    async def sing(self) -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        self.asked.append(line.decode("latin-1").strip())
        writer.write(
            b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n"
            b"Connection: close\r\n\r\n"
        )
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()


class Line:
    """The connection to the browser: answers by their number, events to whoever expects them."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._expected: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self.listeners: dict[str, Callable[[str, Any], Awaitable[None]]] = {}

    async def listen(self) -> None:
        async for text in self._socket:
            said = json.loads(text)
            if "id" in said:
                waiting = self._answers.pop(said["id"], None)
            else:
                session_id = said.get("sessionId", "")
                waiting = self._expected.pop((said["method"], session_id), None)
                if session_id in self.listeners:
                    await self.listeners[session_id](said["method"], said.get("params", {}))
            if waiting is not None and not waiting.done():
                waiting.set_result(said)

    def expect(self, event: str, session_id: str) -> "asyncio.Future[Any]":
        """The next event of this name."""
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._expected[event, session_id] = waiting
        return asyncio.ensure_future(asyncio.wait_for(waiting, _PATIENCE_SECONDS))

    async def send(self, method: str, session_id: str = "", **parameters: object) -> int:
        number = next(self._numbers)
        frame = {"id": number, "method": method, "params": parameters}
        await self._socket.send(
            json.dumps(frame | ({"sessionId": session_id} if session_id else {}))
        )
        return number

    async def call(self, method: str, session_id: str = "", **parameters: object) -> Any:
        """The answer to one command."""
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[await self.send(method, session_id, **parameters)] = waiting
        said = await asyncio.wait_for(waiting, _PATIENCE_SECONDS)
        if "error" in said:
            raise PageFault(said["error"]["message"])
        return said["result"]


@asynccontextmanager
async def open_page(
    directory: Path, what: str, *, switches: Sequence[str] = ()
) -> AsyncIterator[Page]:
    """A tab of a new profile below `directory`; see `find_chromium`. `switches`: beside `FLAGS`."""
    profile = directory / "profile"
    told = profile / "DevToolsActivePort"
    process = await asyncio.create_subprocess_exec(
        find_chromium(what),
        *FLAGS,
        *switches,
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:

        async def is_ready() -> bool:
            assert process.returncode is None, "chromium has ended"
            return told.exists() and told.read_text().count("\n") >= 1

        await eventually(is_ready, timeout_seconds=_PATIENCE_SECONDS, what="chromium")
        port, path = told.read_text().split("\n")[:2]
        async with connect(
            f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=None, compression=None
        ) as socket:
            line = Line(socket)
            listening = asyncio.create_task(line.listen())
            target = await line.call("Target.createTarget", url="about:blank")
            attached = await line.call(
                "Target.attachToTarget", targetId=target["targetId"], flatten=True
            )
            page = Page(line, attached["sessionId"])
            await line.call("Page.enable", attached["sessionId"])
            yield page
            with suppress(PageFault):
                await line.call("Browser.close")
            listening.cancel()
    finally:
        try:
            await asyncio.wait_for(process.wait(), timeout=10)
        except TimeoutError:
            process.kill()
            await process.wait()
