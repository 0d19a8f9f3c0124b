"""What holds for every answer, whatever the route."""

import pytest

from tests.support.people import Backend

pytestmark = pytest.mark.anyio


async def test_a_sane_request_id_comes_back(backend: Backend) -> None:
    anna = await backend.sign_up()
    answer = await anna.call("GET", "/users/me", headers={"X-Request-ID": "abc-123"})
    assert answer.headers["x-request-id"] == "abc-123"


@pytest.mark.parametrize("value", ["", "x" * 500, "a b", "a\tb", 'a"b', "<script>", "\u00e9"])
async def test_a_wild_request_id_is_replaced(backend: Backend, value: str) -> None:
    anna = await backend.sign_up()
    headers = {"X-Request-ID": value}
    raw = {name: text.encode("latin-1") for name, text in headers.items()}
    answer = await anna.call("GET", "/users/me", headers=raw)  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] not in {"", value}


@pytest.mark.parametrize("path", ["/nothing", "/users/me/nothing", "/admin", "/.git/config", "/"])
async def test_an_unknown_route_is_a_problem_document(backend: Backend, path: str) -> None:
    for person in (backend.stranger(), await backend.sign_up()):
        await person.get(path, expect=404)


async def test_an_unknown_method_is_405(backend: Backend) -> None:
    anna = await backend.sign_up()
    for method, path in (
        ("PATCH", "/users/me"),
        ("DELETE", "/messages/"),
        ("PUT", "/chats/"),
        ("GET", "/auth/logout"),
        ("TRACE", "/users/me"),
    ):
        answer = await anna.call(method, path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed"), path
        assert answer.headers["allow"]


async def test_the_pages_of_the_server_are_served(backend: Backend) -> None:
    stranger = backend.stranger()
    for path in ("/docs", "/redoc", "/openapi.json", "/asyncapi.json"):
        answer = await stranger.client.get(path)
        assert answer.status_code == 200, path
    for path in ("/health/live", "/health/ready"):
        assert (await stranger.call("GET", path)).status_code == 200
    assert "server" not in {name.lower() for name in answer.headers}


async def test_every_route_but_the_door_wants_a_token(backend: Backend) -> None:
    """A route without a token check would answer something else than 401 here."""
    stranger = backend.stranger()
    door = {
        "post /auth/send-verification",
        "post /auth/verify-code",
        "post /auth/verify-password",
        "post /auth/two-step/reset",
        "post /auth/refresh-token",
        "options /files/tus",
    }
    for operation in backend.deployment.openapi.operations:
        path = operation.path.removeprefix("/api/v1")
        if not operation.path.startswith("/api/v1") or f"{operation.method} {path}" in door:
            continue
        for name in ("{chat_id}", "{user_id}", "{message_id}", "{session_id}"):
            path = path.replace(name, "1")
        body = {} if operation.method in {"post", "put"} else None
        answer = await stranger.call(
            operation.method.upper(), path.replace("{code}", "x" * 32), body
        )
        assert answer.status_code == 401, f"{operation} -> {answer.status_code} {answer.text}"
