"""Input means one thing only, on every route and both databases; what does not is refused and changes nothing."""

import json
from collections.abc import Callable

import pytest

from tests.support.people import Backend, Json, Person

pytestmark = pytest.mark.anyio

# Routes of several slices with a body that is right in everything but the trap.
ROUTES: dict[str, tuple[str, str, dict[str, object]]] = {
    "send-verification": ("POST", "/auth/send-verification", {"phone": "+491709999999"}),
    "users/me": ("PUT", "/users/me", {"first_name": "New"}),
    "privacy": ("PUT", "/users/me/privacy", {"phone": "nobody"}),
    "contacts": (
        "POST",
        "/users/contacts",
        {"contacts": [{"phone": "+491709999999", "first_name": "New"}]},
    ),
    "chats": ("POST", "/chats/", {"type": "group", "title": "New"}),
    "messages": ("POST", "/messages/", {"chat_id": 1, "text": "New"}),
    "difference": ("POST", "/updates/difference", {"epoch": "New", "state": {"user": 1}}),
}


def with_string(body: dict[str, object], raw: str) -> bytes:
    """The body, one of its strings replaced by raw JSON."""
    text = json.dumps(body)
    for value in ("New", "+491709999999", "nobody"):
        if f'"{value}"' in text:
            return text.replace(f'"{value}"', raw, 1).encode()
    raise AssertionError(text)


def with_member(body: dict[str, object], raw: str) -> bytes:
    return (json.dumps(body)[:-1] + f", {raw}}}").encode()


def first_member_twice(body: dict[str, object]) -> bytes:
    name, value = next(iter(body.items()))
    return with_member(body, f'"{name}": {json.dumps(value)}')


BODIES: dict[str, Callable[[dict[str, object]], bytes]] = {
    "nothing": lambda _: b"",
    "no JSON": lambda _: b"first_name=New",
    "half": lambda body: json.dumps(body).encode()[:-1],
    "more behind": lambda body: json.dumps(body).encode() + b"{}",
    "single quotes": lambda body: json.dumps(body).replace('"', "'").encode(),
    "comment": lambda body: b"/* x */" + json.dumps(body).encode(),
    "UTF-16": lambda body: json.dumps(body).encode("utf-16"),
    "UTF-32": lambda body: json.dumps(body).encode("utf-32"),
    "Latin-1": lambda body: with_string(body, '"\xe9"').decode().encode("latin-1"),
    "overlong UTF-8": lambda body: with_string(body, '"@@"').replace(b"@@", b"\xc0\xaf"),
    "raw surrogate": lambda body: with_string(body, '"@@"').replace(b"@@", b"\xed\xa0\x80"),
    "lone surrogate": lambda body: with_string(body, '"a\\ud800b"'),
    "low surrogate first": lambda body: with_string(body, '"\\udc00\\ud800"'),
    "U+0000": lambda body: with_string(body, '"a\\u0000b"'),
    "raw control": lambda body: with_string(body, '"a\x01b"'),
    "NaN": lambda body: with_string(body, "NaN"),
    "Infinity": lambda body: with_string(body, "-Infinity"),
    "1e400": lambda body: with_string(body, "1e400"),
    "huge integer": lambda body: with_string(body, "9" * 5000),
    "a number": lambda body: with_string(body, "5"),
    "true": lambda body: with_string(body, "true"),
    "an array": lambda body: with_string(body, "[]"),
    "an object": lambda body: with_string(body, "{}"),
    "duplicate key": first_member_twice,
    "unknown key": lambda body: with_member(body, '"colour": 1'),
    "__proto__": lambda body: with_member(body, '"__proto__": {}'),
    "surrogate key": lambda body: with_member(body, '"\\ud800": 1'),
    "top array": lambda body: json.dumps([body]).encode(),
    "top string": lambda _: b'"New"',
    "top null": lambda _: b"null",
    "deep": lambda body: with_string(body, "[" * 40 + "]" * 40),
    "very deep": lambda body: with_string(body, "[" * 100_000 + "]" * 100_000),
    "many keys": lambda body: with_member(body, ", ".join(f'"k{n}": 1' for n in range(20_000))),
}


async def seen_by(person: Person) -> tuple[Json, ...]:
    """What a refused call must not have changed."""
    paths = ("/users/me", "/users/me/privacy", "/users/contacts", "/chats/")
    return tuple([await person.get(path) for path in paths])


@pytest.mark.parametrize("trap", BODIES)
async def test_a_body_that_is_not_strict_json_of_its_schema_is_refused(
    backend: Backend, trap: str
) -> None:
    anna = await backend.sign_up()
    before = await seen_by(anna)
    for name, (method, path, body) in ROUTES.items():
        answer = await anna.call(method, path, content=BODIES[trap](body))
        assert answer.status_code in {400, 413, 422}, (name, answer.status_code, answer.text)
        assert len(answer.content) < 16_384
    assert await seen_by(anna) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
)
async def test_only_utf8_json_is_taken(backend: Backend, headers: dict[str, str]) -> None:
    anna = await backend.sign_up()
    before = await seen_by(anna)
    for method, path, body in ROUTES.values():
        content = json.dumps(body).encode()
        answer = await anna.call(method, path, content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert await seen_by(anna) == before


async def test_a_charset_of_utf8_is_welcome(backend: Backend) -> None:
    anna = await backend.sign_up()
    for media_type in ("application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'):
        headers = {"Content-Type": media_type}
        answer = await anna.call("PUT", "/users/me", content=b'{"bio": "x"}', headers=headers)
        assert answer.status_code == 200, media_type


async def test_a_huge_body_is_refused(backend: Backend) -> None:
    anna = await backend.sign_up()
    for method, path, body in ROUTES.values():
        content = with_string(body, f'"{"x" * 2_000_000}"')
        answer = await anna.call(method, path, content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "raw",
    ["true", '"1"', "1.5", "0", "-1", "9007199254740992", "9223372036854775808", "1e30", "null"],
)
async def test_an_id_in_a_body_is_a_number_in_bounds(backend: Backend, raw: str) -> None:
    anna = await backend.sign_up()
    chat = await anna.private_chat(anna)
    path = f"/chats/{chat['id']}"
    calls = (
        ("POST", "/messages/", f'{{"chat_id": {raw}, "text": "x"}}'),
        ("POST", "/chats/", f'{{"type": "private", "user_id": {raw}}}'),
        ("POST", "/chats/", f'{{"type": "group", "title": "x", "member_ids": [{raw}]}}'),
        ("POST", f"{path}/read", f'{{"message_id": {raw}}}'),
        ("POST", f"{path}/members", f'{{"user_ids": [{raw}]}}'),
    )
    for method, route, body in calls:
        answer = await anna.call(method, route, content=body.encode())
        assert answer.status_code == 422, (route, body, answer.text)
    assert await anna.history(chat) == []


@pytest.mark.parametrize(
    "text",
    [
        "1_0",
        "+1",
        "-1",
        "%201",
        "1%20",
        "01",
        "0",
        "1.0",
        "1e3",
        "0x1",
        "true",
        "me2",
        "%D9%A1",
        "%EF%BC%91",
        "%00",
        "1%00",
        "%FF",
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "99999999999999999999999999",
    ],
)
async def test_an_id_in_a_path_is_plain_digits_in_bounds(backend: Backend, text: str) -> None:
    anna = await backend.sign_up()
    calls = (
        ("GET", f"/users/{text}"),
        ("PUT", f"/users/blocked/{text}"),
        ("DELETE", f"/users/contacts/{text}"),
        ("GET", f"/chats/{text}"),
        ("GET", f"/chats/{text}/members"),
        ("DELETE", f"/chats/{text}/invites/abcdefghijklmnop"),
        ("DELETE", f"/messages/{text}"),
        ("GET", f"/messages/chat/{text}"),
        ("DELETE", f"/auth/sessions/{text}"),
    )
    for method, path in calls:
        answer = await anna.call(method, path)
        assert answer.status_code in {404, 422}, (method, path, answer.text)


@pytest.mark.parametrize(
    "query",
    [
        "limit=1_0",
        "limit=+1",
        "limit=%2B1",
        "limit=%201",
        "limit=1.0",
        "limit=true",
        "limit=0",
        "limit=-1",
        "limit=101",
        "limit=99999999999999999999",
        "limit=",
        "limit=5&limit=6",
        "limit=%00",
        "cursor=%00",
        "cursor=%FF",
        "cursor=a&cursor=b",
        "cursor=" + "x" * 5000,
    ],
)
async def test_a_query_means_one_thing(backend: Backend, query: str) -> None:
    anna = await backend.sign_up()
    for path in ("/chats/", "/users/contacts", "/users/blocked"):
        answer = await anna.call("GET", f"{path}?{query}")
        assert answer.status_code in {400, 422}, (path, query, answer.text)


async def test_a_refusal_never_repeats_the_value(backend: Backend) -> None:
    anna = await backend.sign_up()
    marker = "Xq7marker"
    long = marker * 20_000
    calls: tuple[tuple[str, str, object], ...] = (
        ("POST", "/auth/send-verification", {"phone": marker}),
        ("POST", "/auth/verify-code", {"verification_id": marker, "code": marker}),
        ("POST", "/auth/verify-code", {"verification_id": "x", "code": 5, "colour": marker}),
        ("POST", "/auth/refresh-token", {"refresh_token": marker}),
        ("POST", "/auth/refresh-token", {"refresh_token": [marker]}),
        ("PUT", "/users/me", {"first_name": long}),
        ("PUT", "/users/me", {"username": marker + " "}),
        ("PUT", "/users/me", {"language": marker}),
        ("PUT", "/users/me/privacy", {"phone": marker}),
        ("POST", "/users/contacts", {"contacts": [{"phone": 5, "first_name": marker}]}),
        ("POST", "/chats/", {"type": marker, "title": marker}),
        ("POST", "/messages/", {"chat_id": marker, "text": marker}),
        ("POST", "/messages/", {"chat_id": 1, "text": long}),
        ("POST", "/messages/", {"chat_id": 1, "text": "x", "entities": [{"type": marker}]}),
        ("POST", "/messages/", {"chat_id": 1, "text": "x", "client_message_id": marker}),
        ("POST", "/updates/difference", {"epoch": [marker], "state": {"user": marker}}),
    )
    for method, path, body in calls:
        answer = await anna.call(method, path, body)
        assert 400 <= answer.status_code < 500, (path, answer.status_code)
        assert marker not in answer.text, (path, answer.text)
        assert len(answer.content) < 16_384
    answer = await anna.call("PUT", "/users/me", {long: 1})
    assert answer.status_code == 422
    assert len(answer.content) < 16_384
    for path in (f"/chats/resolve?username={marker}+x", f"/users/search?q={long[:3000]}"):
        answer = await anna.call("GET", path)
        assert answer.status_code == 422
        assert marker not in answer.text


async def test_a_broken_access_token_is_not_repeated(backend: Backend) -> None:
    headers = {"Authorization": "Bearer Xq7marker"}
    answer = await backend.stranger().call("GET", "/users/me", headers=headers)
    assert answer.status_code == 401
    assert "Xq7marker" not in answer.text + str(answer.headers)


async def test_every_body_is_bounded_json(backend: Backend) -> None:
    anna = await backend.sign_up()
    for operation in backend.deployment.openapi.operations:
        if not operation.takes_json:
            continue
        path = operation.path.removeprefix("/api/v1")
        for name in ("{chat_id}", "{user_id}", "{message_id}"):
            path = path.replace(name, str(anna.id))
        method, text = operation.method.upper(), {"Content-Type": "text/plain"}
        for expected, content, headers in (
            (400, b"{", None),
            (413, b" " * 1_100_000, None),
            (415, b"{}", text),
        ):
            answer = await anna.call(method, path, content=content, headers=headers)
            assert answer.status_code == expected, f"{operation} {answer.status_code}"
