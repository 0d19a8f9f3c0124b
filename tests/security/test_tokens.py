"""Tokens, attacked: forged ones, and one kind in the place of another."""

import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable

import pytest

from tests.security.browser import Browser
from tests.support.people import Backend, Json, Person

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"


def encode(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def decode(part: str) -> Json:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def hs256(key: bytes, signed: str) -> str:
    digest = hmac.digest(key, signed.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def is_accepted(backend: Backend, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    answer = await backend.stranger().call("GET", "/users/me", headers=headers)
    assert answer.status_code in {200, 401}
    return answer.status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "none"},
        {"alg": "None"},
        {"alg": "HS512"},
        {"alg": "RS256"},
        {"kid": "../../../../dev/null"},
        {"kid": "/proc/sys/kernel/randomize_va_space"},
        {"kid": "' UNION SELECT 'key"},
        {"kid": None},
        {"kid": ["x"]},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
        {"zip": "DEF"},
        {"typ": "refresh"},
    ],
)
async def test_a_forged_header_opens_nothing(backend: Backend, change: Json) -> None:
    anna = await backend.sign_up()
    assert await is_accepted(backend, anna.access_token)
    header, payload, signature = anna.access_token.split(".")
    signed = f"{encode(decode(header) | change)}.{payload}"
    for forged in ("", signature, hs256(b"", signed), hs256(b"secret", signed)):
        assert not await is_accepted(backend, f"{signed}.{forged}")


async def test_a_changed_claim_opens_nothing(backend: Backend) -> None:
    anna, bruno = await backend.people(2)
    header, payload, signature = anna.access_token.split(".")
    claims = decode(payload)
    for change in ({"sub": str(bruno.id)}, {"exp": claims["exp"] + 3600}, {"sid": "1"}):
        assert not await is_accepted(backend, f"{header}.{encode(claims | change)}.{signature}")
    assert {"iss", "aud", "exp", "nbf", "iat", "jti", "sub", "sid", "typ"} == claims.keys()


async def make_tokens(backend: Backend) -> tuple[Person, dict[str, str]]:
    """One of each kind, all alive; all but the CSRF token are of one person."""
    anna = await backend.sign_up()
    await anna.put("/auth/two-step", {"password": PASSWORD}, expect=200)
    verification_id, code = await backend.ask_code(anna.phone)
    body = {"verification_id": verification_id, "code": code}
    half = await backend.stranger().post("/auth/verify-code", body, expect=200)
    tokens = {
        "access": anna.access_token,
        "refresh": anna.tokens["refresh_token"],
        "ticket": await anna.ticket(),
        "password": half["password_token"],
        "verification": (await backend.ask_code(backend.deployment.next_phone()))[0],
        "csrf": (await open_browser(backend)).csrf_token,
    }
    return anna, tokens


async def open_browser(backend: Backend) -> Browser:
    """Of somebody who is signed in by cookies."""
    browser = Browser(backend)
    await browser.sign_in(backend.deployment.next_phone(), first_name="Bruno")
    return browser


async def try_bearer(backend: Backend, token: str) -> bool:
    return await is_accepted(backend, token)


async def try_refresh(backend: Backend, token: str) -> bool:
    body = {"refresh_token": token}
    answer = await backend.stranger().call("POST", "/auth/refresh-token", body)
    return answer.status_code == 200


async def try_second_step(backend: Backend, token: str) -> bool:
    body = {"password_token": token, "password": PASSWORD}
    answer = await backend.stranger().call("POST", "/auth/verify-password", body)
    return answer.status_code == 200


async def try_reset(backend: Backend, token: str) -> bool:
    body = {"password_token": token}
    answer = await backend.stranger().call("POST", "/auth/two-step/reset", body)
    return answer.status_code == 200


async def try_code(backend: Backend, token: str) -> bool:
    body = {"verification_id": token, "code": "000000"}
    answer = await backend.stranger().call("POST", "/auth/verify-code", body)
    # A wrong code for a request that exists; any other token is no request at all.
    return answer.json()["code"] == "code_invalid"


DOORS: dict[str, tuple[Callable[[Backend, str], Awaitable[bool]], set[str]]] = {
    "bearer": (try_bearer, {"access"}),
    "refresh": (try_refresh, {"refresh"}),
    "reset": (try_reset, {"password"}),
    "second step": (try_second_step, {"password"}),
    "code": (try_code, {"verification"}),
}


@pytest.mark.parametrize("door", DOORS)
async def test_no_token_stands_for_another(backend: Backend, door: str) -> None:
    _, tokens = await make_tokens(backend)
    attempt, wanted = DOORS[door]
    opened = {kind for kind, token in tokens.items() if await attempt(backend, token)}
    assert opened == wanted


async def test_a_socket_opens_with_a_ticket_or_an_access_token_alone(backend: Backend) -> None:
    anna, tokens = await make_tokens(backend)
    for kind in ("refresh", "password", "verification", "csrf"):
        socket = await anna.connect(token=tokens[kind], hello=False)
        await socket.expect_close(4401)
    for kind in ("ticket", "access"):
        await anna.connect(token=tokens[kind])


async def test_a_socket_is_kept_open_by_the_same_tokens_alone(backend: Backend) -> None:
    anna, tokens = await make_tokens(backend)
    socket = await anna.connect()
    for kind in ("refresh", "password", "verification", "csrf"):
        await socket.refused("auth", {"token": tokens[kind]}, "token_invalid")
    for kind in ("ticket", "access"):
        await socket.request("auth", {"token": tokens[kind]})


async def test_a_page_proves_itself_by_a_csrf_token_alone(backend: Backend) -> None:
    _, tokens = await make_tokens(backend)
    browser = await open_browser(backend)
    own = browser.csrf_token
    # Among them is a CSRF token, of another session.
    for token in (*tokens.values(), own):
        browser.cookies[f"{browser.prefix}csrf_token"] = token
        answer = await browser.call("PUT", "/users/me", {"bio": "Hi"}, csrf=token)
        assert answer.status_code == (200 if token == own else 403)


async def test_cookies_hold_what_they_are_for(backend: Backend) -> None:
    _, tokens = await make_tokens(backend)
    browser = await open_browser(backend)
    for kind, token in tokens.items():
        browser.cookies["access_token"] = token
        answer = await browser.call("GET", "/users/me")
        assert answer.status_code == (200 if kind == "access" else 401), kind


async def test_sixty_sign_ins_leave_fifty_sessions(backend: Backend) -> None:
    anna = await backend.sign_up()
    for _ in range(60):
        last = await backend.sign_in(anna.phone)
    sessions = await last.walk("/auth/sessions")
    assert len(sessions) == 50
    assert (await anna.call("GET", "/users/me")).status_code == 401
