"""F3: a real browser runs nothing of what was uploaded, however it is led there, and shows what it may."""

import io
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from PIL import Image

from tests.support.chromium import Canary, Page, open_page
from tests.support.media import long_film
from tests.support.people import Backend, Deployment, Json, Person
from tests.support.servers import Server
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

_SWITCHES = (
    # Pages that are made up come from nowhere, and may ask this machine all the same.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
    "--autoplay-policy=no-user-gesture-required",
)
SCRIPT = "console.log('RAN'); fetch('{canary}/fetch', {{mode: 'no-cors'}}); new Image().src='{canary}/image';"
PAGE = (
    "<!doctype html><title>Hello</title><base href='{canary}/'><img src='{canary}/picture'>"
    "<meta http-equiv='refresh' content='0;url={canary}/refresh'>"
    "<link rel='stylesheet' href='{canary}/style'><script>{script}</script>"
    '<body onload="{script}"><iframe srcdoc="<script>{script}</script>"></iframe>'
)
DRAWING = (
    "<svg xmlns='http://www.w3.org/2000/svg' onload=\"{script}\"><script>{script}</script>"
    "<image href='{canary}/image'/><foreignObject><iframe xmlns='http://www.w3.org/1999/xhtml'"
    " src='{canary}/frame'/></foreignObject></svg>"
)
# `video`, as soon as it shows the place that was asked for: which one that is, and its length.
_WHEN_IT_SHOWS = """
    const video = document.querySelector('video');
    while (video.seeking || video.readyState < 2) {
        if (video.error) throw new Error(video.error.message);
        await new Promise(done => setTimeout(done, 20));
    }
    return [video.currentTime, video.duration];
"""
# More than a browser keeps.
FILM_BYTES = 200_000_000
FILM_SECONDS = 60
DOCUMENT = "<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><script>{script}</script></html>"


class Trap:
    """A person's files in a browser, and an attacker who waits for it to call."""

    def __init__(self, backend: Backend, person: Person, page: Page, canary: Canary) -> None:
        self.backend = backend
        self.origin = backend.deployment.nodes[0].base_url
        self.person = person
        self.page = page
        self.canary = canary

    def fill(self, template: str) -> bytes:
        script = SCRIPT.format(canary=self.canary.url)
        return template.format(script=script, canary=self.canary.url).encode()

    async def lead_to(self, file: Json) -> None:
        """Straight there, and by everything that a page of our own origin may embed."""
        await self.page.open(self.origin + file["url"])
        await self.settle()
        url = file["url"]
        attack = f"{self.origin}/made-up"
        self.page.pages[attack] = (
            f"<script src='{url}'></script><script type='module' src='{url}'></script>"
            f"<img src='{url}'><iframe src='{url}'></iframe><object data='{url}'></object>"
            f"<embed src='{url}'><link rel='stylesheet' href='{url}'><video src='{url}'></video>"
        )
        await self.page.open(attack)
        await self.settle()
        await self.page.run(f"void navigator.serviceWorker?.register('{url}').catch(() => 0)")
        await self.settle()

    async def settle(self) -> None:
        """What was to run has run: a page that came later is loaded, and its own call has arrived."""
        mark = f"/mark-{len(self.canary.asked)}"
        image = f"<img src='{self.canary.url}{mark}'>"
        await self.page.rest()
        self.page.pages[f"{self.origin}/made-up-end"] = image
        await self.page.open(f"{self.origin}/made-up-end")

        async def is_heard() -> bool:
            return any(mark in line for line in self.canary.asked)

        await eventually(is_heard, what="the end is heard", timeout_seconds=20)

    def caught(self) -> list[str]:
        calls = [line for line in self.canary.asked if "/mark-" not in line]
        return [*calls, *(line for line in self.page.console if "RAN" in line)]


@pytest.fixture
async def trap(
    request: pytest.FixtureRequest, directory: Path, anyio_backend: str
) -> AsyncIterator[Trap]:
    """`request.param`: settings of its own, if any."""
    del anyio_backend
    async with AsyncExitStack() as stack:
        settings = getattr(request, "param", None)
        server = stack.enter_context(Server(directory / "server", settings))
        backend = Backend(Deployment("sqlite", [server]), stack)
        anna = await backend.sign_up()
        canary = await stack.enter_async_context(Canary().sing())
        headers = {"Authorization": f"Bearer {anna.access_token}"}
        tab = open_page(directory, "files in a browser", switches=_SWITCHES)
        page = await (await stack.enter_async_context(tab)).prepare(headers)
        yield Trap(backend, anna, page, canary)


async def test_the_trap_catches_what_runs(trap: Trap) -> None:
    """The same bytes, served as careless servers do."""
    place = f"{trap.origin}/made-up-control"
    trap.page.pages[place] = trap.fill(PAGE).decode()
    await trap.page.open(place)
    await trap.settle()
    assert any("RAN" in line for line in trap.caught())
    assert any(line.startswith("GET /") for line in trap.caught())


@pytest.mark.parametrize("purpose", ["attachment", "document"])
async def test_nothing_of_an_upload_is_run(trap: Trap, purpose: str) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(picture, "JPEG")
    jpeg, gif = picture.getvalue(), b"GIF89a/*" + b"\0" * 20
    page, script = trap.fill(PAGE), trap.fill("{script}")
    bodies = {
        "page.html": page,
        "page.jpg": page,
        "drawing.svg": trap.fill(DRAWING),
        "page.xhtml": trap.fill(DOCUMENT),
        "script.js": script,
        "worker.js": b"self.addEventListener('fetch', () => 0);" + script,
        # A comment of the JPEG holds the page; as its end, it stands behind the picture.
        "inside.jpg": jpeg[:2] + b"\xff\xfe" + (len(page) + 2).to_bytes(2, "big") + page + jpeg[2:],
        "behind.jpg": jpeg + page,
        "script.gif": gif + b"*/=1;" + script,
        "page.pdf": b"%PDF-1.7\n" + page,
        "bom.txt": b"\xef\xbb\xbf" + page,
        "utf7.txt": b"+ADw-script+AD4-console.log('RAN')+ADw-/script+AD4-",
    }
    if purpose == "attachment":
        # It begins like a photo and is none.
        await trap.person.upload(bodies.pop("script.gif"), expect=422, code="photo_invalid")
    for name, body in bodies.items():
        file = await trap.person.upload(body, name=name, purpose=purpose)
        await trap.lead_to(file)
        assert trap.caught() == [], name


async def test_a_photo_is_shown(trap: Trap) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (400, 300), "red").save(picture, "JPEG")
    photo = await trap.person.upload(picture.getvalue(), name="photo.jpg")
    assert photo["file_type"] == "photo"
    place = f"{trap.origin}/made-up"
    trap.page.pages[place] = f"<img src='{photo['url']}'><img src='{photo['thumbnail_url']}'>"
    await trap.page.open(place)
    widths = await trap.page.run("return [...document.images].map(it => it.naturalWidth)")
    assert widths == [400, 320]
    # Straight to it, as whoever opens a picture in a tab of its own.
    await trap.page.open(trap.origin + photo["url"])
    assert await trap.page.run("return document.images[0].naturalWidth") == 400
    assert trap.caught() == []


@pytest.mark.parametrize(
    "trap", [{}, {"ENCRYPT_FILES": "false"}], ids=["sealed", "plain"], indirect=True
)
async def test_a_film_is_sought(trap: Trap) -> None:
    """By somebody whom it was sent to."""
    film = await trap.person.upload(
        long_film(size_bytes=FILM_BYTES, seconds=FILM_SECONDS), name="film.webm"
    )
    assert (film["file_type"], film["mime_type"]) == ("video", "video/webm")
    bruno = await trap.backend.sign_up(first_name="Bruno")
    chat = await trap.person.private_chat(bruno)
    message = {"chat_id": chat["id"], "attachments": [film["id"]]}
    await trap.person.post("/messages/", message, expect=201)
    await trap.page.prepare({"Authorization": f"Bearer {bruno.access_token}"})
    place = f"{trap.origin}/made-up-player"
    trap.page.pages[place] = f"<video src='{film['url']}' preload='metadata' muted></video>"
    await trap.page.open(place)
    shown, duration = await trap.page.run(_WHEN_IT_SHOWS)
    assert (shown, round(duration)) == (0, FILM_SECONDS)
    for second in (FILM_SECONDS - 2, 10):
        await trap.page.run(f"document.querySelector('video').currentTime = {second}")
        shown, _ = await trap.page.run(_WHEN_IT_SHOWS)
        assert abs(shown - second) < 0.5
    loads = [load for load in trap.page.loads.values() if load.url.endswith(film["url"])]
    assert {load.status for load in loads} == {206}
    starts = [int(re.findall(r"\d+", load.headers["content-range"])[0]) for load in loads]
    # Back to the front it has to ask for that place: it keeps little of what lies behind. Whether it asks for a
    # place ahead or reads on until it is there is its own affair, and depends on the line.
    assert starts[0] == 0
    assert 0 < starts[-1] < film["size"] // 2
