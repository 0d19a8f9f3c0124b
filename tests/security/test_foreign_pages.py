"""Pages of others in a real browser that is signed in here by cookies (J3, E1, J4): whatever they send is
refused, changes nothing and tells them nothing.

A neighbour is the hard case: another port of the same host is another origin of the same *site*, so the
browser sends `SameSite=Lax` cookies along with everything.
"""

import itertools
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.audit import wait_for_log
from tests.support.chromium import Page, PageFault, open_page
from tests.support.people import API, Backend, Deployment, Json, Person
from tests.support.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SIGN_IN = """
const answer = await fetch('/api/v1/auth/verify-code', {
    method: 'POST',
    headers: {'Content-Type': 'application/json', 'X-Auth-Mode': 'cookie'},
    body: JSON.stringify(%s),
});
return answer.status;
"""
CALL = """
const cookies = Object.fromEntries(document.cookie.split('; ').map(it => it.split('=')));
const headers = {'X-CSRF-Token': cookies.csrf_token || ''};
const body = %(body)s;
if (body !== null) headers['Content-Type'] = 'application/json';
const answer = await fetch('%(url)s', {
    method: '%(method)s', headers, body: body === null ? undefined : JSON.stringify(body),
});
return [answer.status, answer.status === 204 ? null : await answer.json()];
"""
# A text/plain form sends `name=value`: with these two it reads as JSON.
AS_JSON = ('{"type":"group","title":"Forged","x":"', '"}')
SUBMIT = """
document.body.innerHTML = '';
const form = document.createElement('form');
form.method = 'POST';
form.enctype = %(enctype)s;
form.action = %(url)s;
const field = document.createElement('input');
[field.name, field.value] = %(field)s;
if (field.name) form.append(field);
document.body.append(form);
form.submit();
"""
FETCH = """
const answer = await fetch(%(url)s, {credentials: 'include', ...%(options)s});
return answer.type + ' ' + answer.status;
"""
BEACON = "return navigator.sendBeacon(%(url)s, new Blob(['{}'], {type: 'text/plain'}));"
SOCKET = """
return await new Promise(resolve => {
    const socket = new WebSocket(%(url)s);
    socket.onopen = () => resolve('open');
    socket.onerror = () => resolve('refused');
});
"""
IMAGE = """
return await new Promise(resolve => {
    const it = document.createElement(%(tag)s);
    it.onload = () => resolve('loaded');
    it.onerror = () => resolve('refused');
    it.src = %(url)s;
    document.body.append(it);
});
"""


@dataclass
class Stage:
    """Anna's browser, signed in; `sites`: origins of pages that are not ours, the neighbour's first."""

    backend: Backend
    server: Server
    page: Page
    anna: Person
    sites: tuple[str, str]

    def url(self, path: str) -> str:
        return f"{self.server.base_url}{API}{path}"

    async def come_home(self) -> None:
        await self.page.goto(f"{self.server.base_url}/docs")

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, Json]:
        """As our own page does, which the browser must be at."""
        script = CALL % {"method": method, "url": API + path, "body": json.dumps(body)}
        status, answer = await self.page.run(script)
        return status, answer

    async def state(self) -> Json:
        """All that an attack could have changed, as another device of Anna's sees it."""
        anna = self.anna
        paths = ("/users/me", "/auth/two-step", "/users/me/privacy", "/users/blocked")
        seen = [await anna.get(path) for path in paths]
        seen.append([chat["id"] for chat in await anna.walk("/chats/")])
        sessions = (await anna.get("/auth/sessions"))["items"]
        return [*seen, sorted(session["id"] for session in sessions)]


class _Quiet(BaseHTTPRequestHandler):
    """An empty page at every address."""

    def do_GET(self) -> None:
        page = b"<!doctype html><title>free sweets</title><body></body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def foreign_site() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Quiet) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield site.server_address[1]
        site.shutdown()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Server(tmp_path_factory.mktemp("pages")) as server:
        yield Deployment("sqlite", [server])
        server.stop()
    assert server.faults() == []


@pytest.fixture
async def stage(backend: Backend, directory: Path) -> AsyncIterator[Stage]:
    with foreign_site() as port:
        async with open_page(directory, "pages of others in a browser") as page:
            anna = await backend.sign_up()
            stage = Stage(
                backend,
                backend.deployment.nodes[0],
                page,
                anna,
                sites=(f"http://127.0.0.1:{port}", f"http://localhost:{port}"),
            )
            await stage.come_home()
            verification_id, code = await backend.ask_code(anna.phone)
            body = {"verification_id": verification_id, "code": code}
            assert await page.run(SIGN_IN % json.dumps(body)) == 200
            yield stage


async def test_our_own_page_works_and_scripts_see_no_token(stage: Stage) -> None:
    """What the others fail to do is possible at all."""
    cookies = await stage.page.run("return document.cookie")
    assert [part.partition("=")[0] for part in cookies.split("; ")] == ["csrf_token"]
    status, made = await stage.call("POST", "/chats/", {"type": "group", "title": "Ours"})
    assert (status, made["title"]) == (201, "Ours")
    _, answer = await stage.call("POST", "/auth/ws-ticket", {})
    socket = f"{stage.server.websocket_url}{API}/ws/{answer['ticket']}"
    assert await stage.page.run(SOCKET % {"url": json.dumps(socket)}) == "open"


async def test_forms_of_other_pages_are_refused_and_change_nothing(stage: Stage) -> None:
    before = await stage.state()
    forms = [
        ("/chats/", "text/plain", AS_JSON),
        ("/chats/", "application/x-www-form-urlencoded", ("title", "Forged")),
        ("/chats/", "multipart/form-data", ("title", "Forged")),
        (f"/users/blocked/{stage.anna.id + 1}", "text/plain", ("", "")),
        ("/auth/logout", "text/plain", ("", "")),
        ("/auth/refresh-token", "text/plain", ("", "")),
        ("/auth/ws-ticket", "text/plain", ("{}", "")),
    ]
    for site, (path, enctype, field) in itertools.product(stage.sites, forms):
        await stage.page.goto(site)
        parts = {"url": stage.url(path), "enctype": enctype, "field": field}
        await stage.page.leave_by(SUBMIT % {key: json.dumps(part) for key, part in parts.items()})
        problem = json.loads(await stage.page.run("return document.body.innerText"))
        # A browser that sends the cookies along says from where; one that does not has no session.
        assert problem["status"] in {401, 403, 405, 415}, (path, problem)
    await expect_untouched(stage, before)


async def test_scripts_of_other_pages_reach_nothing(stage: Stage) -> None:
    before = await stage.state()
    for site in stage.sites:
        await stage.page.goto(site)
        await attack_by_script(stage)
    # The neighbour's had the cookies with them: it was the origin that was refused.
    await wait_for_log(stage.backend.deployment, "origin_refused")
    await expect_untouched(stage, before)


async def attack_by_script(stage: Stage) -> None:
    plain = {"method": "POST", "mode": "no-cors"}
    asking = {"Content-Type": "application/json", "X-CSRF-Token": "x"}
    attacks: list[tuple[str, object]] = [
        ("/auth/logout", plain),
        ("/chats/", plain | {"body": '{"type":"group","title":"Forged"}'}),
        # These ask first (a preflight), and are told no.
        ("/chats/", {"method": "POST", "headers": asking, "body": "{}"}),
        ("/users/me", {"method": "PUT", "headers": asking, "body": "{}"}),
        ("/auth/sessions", {"method": "DELETE"}),
        # Reading: with and without leave.
        ("/users/me", {}),
        ("/users/me", {"mode": "no-cors"}),
        ("/auth/csrf", {}),
    ]
    for path, options in attacks:
        parts = {"url": json.dumps(stage.url(path)), "options": json.dumps(options)}
        with pytest.raises(PageFault):
            await stage.page.run(FETCH % parts)
    url = json.dumps(stage.url("/auth/logout"))
    assert await stage.page.run(BEACON % {"url": url}) is True
    for tag in ("img", "script"):
        parts = {"url": json.dumps(stage.url("/users/me")), "tag": json.dumps(tag)}
        assert await stage.page.run(IMAGE % parts) == "refused"


async def test_sockets_of_other_pages_are_refused(stage: Stage) -> None:
    """Even with a ticket that is good."""
    ticket = await stage.anna.ticket()
    for site, token in itertools.product(stage.sites, (ticket, "x")):
        await stage.page.goto(site)
        url = f"{stage.server.websocket_url}{API}/ws/{token}"
        assert await stage.page.run(SOCKET % {"url": json.dumps(url)}) == "refused"
    socket = await stage.anna.connect(token=ticket)
    assert socket.hello["user_id"] == stage.anna.id


async def expect_untouched(stage: Stage, before: Json) -> None:
    """Nothing has changed, and the session of the browser lives on."""
    assert await stage.state() == before
    await stage.come_home()
    status, made = await stage.call("POST", "/chats/", {"type": "group", "title": "Still in"})
    assert (status, made["title"]) == (201, "Still in")
