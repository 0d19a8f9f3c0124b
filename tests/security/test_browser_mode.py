"""Browser mode, attacked as pages of other sites, stolen tokens and clumsy clients would."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.security.browser import EVIL, Browser, refusal
from tests.support.people import API, Backend, Deployment
from tests.support.servers import Server

pytestmark = pytest.mark.anyio
OK, NO_CONTENT, UNAUTHORIZED, FORBIDDEN = 200, 204, 401, 403
SAFE = {"get", "head", "options"}
TITLE = {"type": "group", "title": "Made by a page"}


async def signed_in(backend: Backend) -> Browser:
    browser = Browser(backend)
    await browser.sign_in(backend.deployment.next_phone(), first_name="Anna")
    return browser


async def test_the_tokens_are_in_cookies_and_nowhere_else(backend: Backend) -> None:
    browser = Browser(backend)
    answer = await browser.sign_in(backend.deployment.next_phone(), first_name="Anna")
    assert answer.keys() == {"expires_in", "is_new_user", "user"}
    assert browser.cookies.keys() == {"access_token", "refresh_token", "csrf_token"}
    for name, morsel in browser.set_cookies.items():
        assert morsel["path"] == "/"
        assert not morsel["domain"]
        assert morsel["samesite"].lower() == "lax"
        assert bool(morsel["httponly"]) == (name != "csrf_token")
        assert int(morsel["max-age"]) > 0
        assert morsel.value not in str(answer)
    me = await browser.call("GET", "/users/me")
    assert me.json()["first_name"] == "Anna"


async def test_without_the_header_tokens_come_in_the_body_and_no_cookie(backend: Backend) -> None:
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    body = {"verification_id": verification_id, "code": code}
    answer = await Browser(backend).call("POST", "/auth/verify-code", body)
    assert {"access_token", "refresh_token"} <= answer.json().keys()
    assert "set-cookie" not in answer.headers


async def test_the_page_may_change_things_with_its_csrf_token(backend: Backend) -> None:
    browser = await signed_in(backend)
    made = await browser.call("POST", "/chats/", TITLE)
    assert made.status_code == 201, made.text
    # Without Origin, as old browsers were, the token alone is proof.
    assert (await browser.call("POST", "/chats/", TITLE, origin=None)).status_code == 201


@pytest.mark.parametrize("which", ["none", "empty", "other session", "cut", "made up", "twice"])
async def test_a_wrong_csrf_token_is_refused(backend: Backend, which: str) -> None:
    browser, other = await signed_in(backend), await signed_in(backend)
    own = browser.csrf_token
    token = {
        "none": None,
        "empty": "",
        "other session": other.csrf_token,
        "cut": own[:-1],
        "made up": "x" * len(own),
        "twice": f"{own}, {own}",
    }[which]
    answer = await browser.call("POST", "/chats/", TITLE, csrf=token)
    assert refusal(answer) == (FORBIDDEN, "csrf_refused")


async def test_a_planted_csrf_cookie_does_not_help(backend: Backend) -> None:
    """Double submit alone would take any pair of equal values."""
    browser, thief = await signed_in(backend), await signed_in(backend)
    for planted in ("planted", "", "planted.planted", thief.csrf_token):
        browser.cookies["csrf_token"] = planted
        answer = await browser.call("POST", "/chats/", TITLE)
        assert refusal(answer) == (FORBIDDEN, "csrf_refused"), planted


@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "",
        "https://127.0.0.1.evil.example",
        "http://127.0.0.1",
        "http://localhost:1",
        "file://",
        "http://127.0.0.1:0@evil.example",
    ],
)
async def test_a_page_of_another_origin_is_refused_even_with_the_token(
    backend: Backend, origin: str
) -> None:
    browser = await signed_in(backend)
    answer = await browser.call("POST", "/chats/", TITLE, origin=origin)
    assert refusal(answer) == (FORBIDDEN, "origin_refused")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
async def test_a_foreign_site_is_refused_where_no_origin_is_sent(
    backend: Backend, site: str
) -> None:
    browser = await signed_in(backend)
    headers = {"Sec-Fetch-Site": site}
    answer = await browser.call("POST", "/chats/", TITLE, origin=None, headers=headers)
    assert refusal(answer) == (FORBIDDEN, "origin_refused")


async def test_every_call_that_changes_something_asks_for_the_token(backend: Backend) -> None:
    """Walks all documented routes: a new one that forgets it fails here."""
    browser = await signed_in(backend)
    # Nobody is signed in yet: a code or a `password_token` in the body is the proof.
    open_to_all = {
        "post /auth/send-verification",
        "post /auth/verify-code",
        "post /auth/verify-password",
        "post /auth/two-step/reset",
    }
    asked = 0
    for operation in backend.deployment.openapi.operations:
        path = operation.path.removeprefix(API)
        if operation.method in SAFE or f"{operation.method} {path}" in open_to_all:
            continue
        for name, value in {"{filename}": "x", "{code}": "x" * 24, "{file_type}": "photo"}.items():
            path = path.replace(name, value)
        path = "/".join("1" if part.startswith("{") else part for part in path.split("/"))
        answer = await browser.call(operation.method.upper(), path, csrf=None)
        assert refusal(answer) == (FORBIDDEN, "csrf_refused"), operation
        answer = await browser.call(operation.method.upper(), path, origin=EVIL)
        assert refusal(answer) == (FORBIDDEN, "origin_refused"), operation
        asked += 1
    assert asked > 20
    assert (await browser.call("GET", "/users/me")).status_code == OK


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; charset=application/json",
        "application/json, text/plain",
    ],
)
async def test_what_forms_can_send_is_refused_everywhere(backend: Backend, media_type: str) -> None:
    """Also by routes that need no body: a form with an empty body reaches them all the same."""
    person = await backend.sign_up()
    for operation in backend.deployment.openapi.operations:
        path = operation.path.removeprefix(API)
        if operation.method in SAFE or path == "/files/upload":
            continue
        for name, value in {"{filename}": "x", "{code}": "x" * 24, "{file_type}": "photo"}.items():
            path = path.replace(name, value)
        path = "/".join("1" if part.startswith("{") else part for part in path.split("/"))
        for content in (b'{"a": "b"}', b""):
            answer = await person.call(
                operation.method.upper(),
                path,
                content=content,
                headers={"Content-Type": media_type},
            )
            expected = (415, "unsupported_media_type")
            assert refusal(answer) == expected, f"{operation} took {content!r} as {media_type}"


async def test_bearer_needs_no_token_and_wins_over_cookies(backend: Backend) -> None:
    browser, person = await signed_in(backend), await backend.sign_up(first_name="Bruno")
    bearer = {"Authorization": f"Bearer {person.access_token}"}
    answer = await browser.call("POST", "/chats/", TITLE, origin=EVIL, csrf=None, headers=bearer)
    assert answer.status_code == 201, answer.text
    me = await browser.call("GET", "/users/me", headers=bearer)
    assert me.json()["id"] == person.id
    wrong = {"Authorization": "Bearer nonsense"}
    answer = await browser.call("POST", "/chats/", TITLE, headers=wrong)
    assert refusal(answer) == (UNAUTHORIZED, "token_invalid")


async def test_another_kind_of_authorization_does_not_pass_for_bearer(backend: Backend) -> None:
    browser = await signed_in(backend)
    for value in ("Basic YTpi", "Bearer", ""):
        answer = await browser.call(
            "POST", "/chats/", TITLE, csrf=None, headers={"Authorization": value}
        )
        assert answer.status_code in {UNAUTHORIZED, FORBIDDEN}, value


async def test_refresh_works_by_cookie_and_rotates(backend: Backend) -> None:
    browser = await signed_in(backend)
    before = dict(browser.cookies)
    answer = await browser.call("POST", "/auth/refresh-token")
    assert answer.status_code == OK
    assert answer.json().keys() == {"expires_in"}
    assert browser.cookies["refresh_token"] != before["refresh_token"]
    assert (await browser.call("POST", "/chats/", TITLE)).status_code == 201
    # The access token may be long gone: the refresh token is enough, and finds its CSRF token again.
    del browser.cookies["access_token"], browser.cookies["csrf_token"]
    assert (await browser.call("GET", "/users/me")).status_code == UNAUTHORIZED
    token = (await browser.call("GET", "/auth/csrf")).json()["csrf_token"]
    assert browser.csrf_token == token
    assert (await browser.call("POST", "/auth/refresh-token")).status_code == OK
    assert (await browser.call("GET", "/users/me")).status_code == OK


async def test_a_foreign_page_cannot_even_make_the_token_rotate(backend: Backend) -> None:
    browser, other = await signed_in(backend), await signed_in(backend)
    before = browser.cookies["refresh_token"]
    for case in ({"csrf": None}, {"origin": EVIL}, {"csrf": other.csrf_token}):
        answer = await browser.call("POST", "/auth/refresh-token", **case)
        assert answer.status_code == FORBIDDEN, case
        assert "set-cookie" not in answer.headers
    assert browser.cookies["refresh_token"] == before
    assert (await browser.call("POST", "/auth/refresh-token")).status_code == OK


async def test_logout_ends_the_session_and_clears_the_cookies(backend: Backend) -> None:
    browser = await signed_in(backend)
    kept = dict(browser.cookies)
    assert (await browser.call("POST", "/auth/logout")).status_code == NO_CONTENT
    assert browser.cookies == {}
    browser.cookies = kept
    assert refusal(await browser.call("GET", "/users/me"))[0] == UNAUTHORIZED
    assert refusal(await browser.call("POST", "/auth/refresh-token"))[0] == UNAUTHORIZED
    assert refusal(await browser.call("GET", "/auth/csrf"))[0] == UNAUTHORIZED


async def test_tokens_do_not_stand_in_for_each_other(backend: Backend) -> None:
    browser = await signed_in(backend)
    jar = dict(browser.cookies)
    for value in (jar["refresh_token"], jar["csrf_token"]):
        browser.cookies = {**jar, "access_token": value}
        assert (await browser.call("GET", "/users/me")).status_code == UNAUTHORIZED
    for value in (jar["access_token"], jar["csrf_token"]):
        browser.cookies = {**jar, "refresh_token": value}
        assert (await browser.call("POST", "/auth/refresh-token")).status_code == UNAUTHORIZED
    browser.cookies = {**jar, "csrf_token": jar["access_token"]}
    assert (await browser.call("POST", "/chats/", TITLE)).status_code == FORBIDDEN


async def test_nobody_can_be_signed_in_to_a_strangers_account(backend: Backend) -> None:
    """Login CSRF: a page of another site posts the attacker's code."""
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    body = {"verification_id": verification_id, "code": code}
    mode = {"X-Auth-Mode": "cookie"}
    browser = Browser(backend)
    for origin in (EVIL, "null"):
        answer = await browser.call("POST", "/auth/verify-code", body, origin=origin, headers=mode)
        assert refusal(answer) == (FORBIDDEN, "origin_refused")
        assert "set-cookie" not in answer.headers
        # By the second step neither.
        step = {"password_token": "p" * 43, "password": "a long password"}
        answer = await browser.call(
            "POST", "/auth/verify-password", step, origin=origin, headers=mode
        )
        assert refusal(answer) == (FORBIDDEN, "origin_refused")
    # No try was spent on it.
    answer = await browser.call("POST", "/auth/verify-code", body, headers=mode)
    assert answer.status_code == OK
    assert (
        await browser.call("POST", "/auth/verify-code", body, headers={"X-Auth-Mode": "x"})
    ).status_code == 422


async def test_the_page_opens_a_socket_by_a_ticket_and_no_other_page_does(backend: Backend) -> None:
    browser, person = await signed_in(backend), await backend.sign_up()
    refused = await browser.call("POST", "/auth/ws-ticket", {}, csrf=None)
    assert refusal(refused) == (FORBIDDEN, "csrf_refused")
    for case in (
        {"origin": EVIL},
        {"origin": "null"},
        {"additional_headers": {"Sec-Fetch-Site": "cross-site"}},
        {"additional_headers": [("Origin", browser.origin), ("Origin", EVIL)]},
    ):
        ticket = (await browser.call("POST", "/auth/ws-ticket", {})).json()["ticket"]
        with pytest.raises(InvalidStatus) as caught:
            await person.connect(token=ticket, hello=False, **case)
        # Two of them are no handshake at all.
        expected = {FORBIDDEN, 400} if len(case.get("additional_headers", ())) > 1 else {FORBIDDEN}
        assert caught.value.response.status_code in expected, case
    ticket = (await browser.call("POST", "/auth/ws-ticket", {})).json()["ticket"]
    socket = await person.connect(token=ticket)
    assert socket.hello["user_id"] == (await browser.call("GET", "/users/me")).json()["id"]


async def test_a_cookie_alone_opens_no_socket(backend: Backend) -> None:
    browser, person = await signed_in(backend), await backend.sign_up()
    head = {"Cookie": f"access_token={browser.cookies['access_token']}"}
    socket = await person.connect(token="x", hello=False, additional_headers=head)
    await socket.expect_close(4401)


@pytest.fixture
def secure_server(directory: Path) -> Iterator[Server]:
    """Behind a proxy that ends TLS."""
    settings = {"TRUSTED_PROXIES": "127.0.0.1/32"}
    with Server(directory, settings) as server:
        yield server
        server.stop()
    assert server.faults() == []


@pytest.fixture
async def secure(secure_server: Server, anyio_backend: str) -> AsyncIterator[Backend]:
    del anyio_backend
    async with AsyncExitStack() as stack:
        yield Backend(Deployment("sqlite", [secure_server]), stack)


async def test_over_https_cookies_are_bound_to_this_host(secure: Backend) -> None:
    browser = Browser(secure, https=True)
    await browser.sign_in(secure.deployment.next_phone())
    names = {f"__Host-{name}" for name in ("access_token", "refresh_token", "csrf_token")}
    assert browser.cookies.keys() == names
    for morsel in browser.set_cookies.values():
        assert morsel["secure"]
        assert morsel["path"] == "/"
        assert not morsel["domain"]
    assert (await browser.call("POST", "/chats/", TITLE)).status_code == 201
    # A plain name may have been set by a neighbouring subdomain.
    planted = {name.removeprefix("__Host-"): value for name, value in browser.cookies.items()}
    browser.cookies = planted
    assert (await browser.call("GET", "/users/me")).status_code == UNAUTHORIZED


async def test_over_https_a_page_over_http_is_foreign(secure: Backend) -> None:
    browser = Browser(secure, https=True)
    await browser.sign_in(secure.deployment.next_phone())
    answer = await browser.call(
        "POST", "/chats/", TITLE, origin=secure.deployment.nodes[0].base_url
    )
    assert refusal(answer) == (FORBIDDEN, "origin_refused")


async def test_a_client_cannot_claim_https_for_itself(backend: Backend) -> None:
    """Nobody but a trusted proxy says how the client came."""
    verification_id, code = await backend.ask_code(backend.deployment.next_phone())
    answer = await Browser(backend).call(
        "POST",
        "/auth/verify-code",
        {"verification_id": verification_id, "code": code},
        headers={"X-Auth-Mode": "cookie", "X-Forwarded-Proto": "https"},
    )
    assert not [line for line in answer.headers.get_list("set-cookie") if "__Host-" in line]


async def test_csrf_protection_can_be_switched_off_for_development(directory: Path) -> None:
    with Server(directory, {"ENABLE_CSRF_PROTECTION": "false"}) as server:
        async with AsyncExitStack() as stack:
            backend = Backend(Deployment("sqlite", [server]), stack)
            browser = await signed_in(backend)
            answer = await browser.call("POST", "/chats/", TITLE, origin=EVIL, csrf=None)
            assert answer.status_code == httpx.codes.CREATED
        server.stop()
