"""People who use the server as clients do; every answer is held against OpenAPI too."""

import itertools
import json
import re
import ssl
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
from messenger_client import Client, MemoryStore, Options, PasswordRequired

from tests.support.openapi import OpenApi
from tests.support.servers import Server
from tests.support.sockets import Socket

Json = Any  # what json.loads answers
API = "/api/v1"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_SERVER_FAULT = 500
# Made once: a context costs 20 ms, and the tests speak plain HTTP.
_NO_TLS = ssl.create_default_context()


class Deployment:
    """The servers that stand for one backend, one or several nodes over the same data."""

    def __init__(
        self, name: str, nodes: Sequence[Server], details: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.nodes = list(nodes)
        self.details = details or {}
        self._turn = itertools.count()
        self._numbers = itertools.count(1)
        self._openapi: OpenApi | None = None

    @property
    def openapi(self) -> OpenApi:
        if self._openapi is None:
            url = f"{self.nodes[0].base_url}/openapi.json"
            # The first one is built, which takes seconds where others use the machine too.
            answer = httpx.get(url, timeout=30, trust_env=False)
            self._openapi = OpenApi(answer.raise_for_status().json())
        return self._openapi

    def next_node(self) -> Server:
        """Nodes take turns, so that people meet across them."""
        return self.nodes[next(self._turn) % len(self.nodes)]

    def next_phone(self) -> str:
        """A valid German mobile number that nobody had before."""
        return f"+49170{next(self._numbers):07d}"

    def codes(self, phone: str) -> list[str]:
        return self.nodes[0].codes(phone)


class JudgedTransport(httpx.AsyncBaseTransport):
    """Under the reference client: every answer that it gets is checked as all others are.

    `last` is the newest of them.
    """

    def __init__(self, openapi: OpenApi) -> None:
        self._openapi = openapi
        self._inner = httpx.AsyncHTTPTransport(verify=_NO_TLS, trust_env=False)
        self.last: Json = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        response.request = request
        await response.aread()
        check_answer(self._openapi, request.method, response)
        is_json = response.headers.get("content-type", "").endswith("json")
        self.last = response.json() if is_json else None
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class Person:
    """A signed-in device, or (without a token) a stranger. Paths are relative to /api/v1."""

    def __init__(self, backend: "Backend", answer: Json = None, *, phone: str = "") -> None:
        self.backend = backend
        self.phone = phone
        self.tokens: Json = answer or {}
        self.user: Json = self.tokens.get("user", {})
        self.node = backend.deployment.next_node()
        self.client = httpx.AsyncClient(
            base_url=self.node.base_url, timeout=30, trust_env=False, verify=_NO_TLS
        )
        backend.stack.push_async_callback(self.client.aclose)

    @property
    def id(self) -> int:
        return self.user["id"]

    @property
    def access_token(self) -> str:
        return self.tokens["access_token"]

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
        query: dict[str, object] | None = None,
    ) -> httpx.Response:
        """One request, its answer checked for what every answer has."""
        head = {"Authorization": f"Bearer {self.access_token}"} if self.tokens else {}
        if body is not None:
            content = json.dumps(body).encode()
        if content is not None:
            head["Content-Type"] = "application/json"
        parameters = {
            name: _query_value(value) for name, value in (query or {}).items() if value is not None
        }
        url = path if path.startswith(("/health", "/openapi", "/docs")) else API + path
        response = await self.client.request(
            method, url, content=content, headers=head | (headers or {}), params=parameters or None
        )
        check_answer(self.backend.deployment.openapi, method, response)
        if self.tokens and response.is_success:
            assert "no-store" in response.headers.get("cache-control", ""), (
                f"{method} {path} may be cached"
            )
        return response

    async def get(
        self, path: str, *, expect: int | None = None, code: str | None = None, **query: object
    ) -> Json:
        return _result(await self.call("GET", path, query=query), expect, code)

    async def post(
        self,
        path: str,
        body: object = None,
        *,
        expect: int | None = None,
        code: str | None = None,
        **query: object,
    ) -> Json:
        return _result(await self.call("POST", path, body, query=query), expect, code)

    async def put(
        self,
        path: str,
        body: object = None,
        *,
        expect: int | None = None,
        code: str | None = None,
        **query: object,
    ) -> Json:
        return _result(await self.call("PUT", path, body, query=query), expect, code)

    async def delete(
        self, path: str, *, expect: int | None = None, code: str | None = None, **query: object
    ) -> Json:
        return _result(await self.call("DELETE", path, query=query), expect, code)

    async def upload(
        self,
        content: bytes,
        *,
        name: str = "file.bin",
        purpose: str | None = None,
        expect: int = 201,
        code: str | None = None,
    ) -> Json:
        """Upload a file by a form; answers the file."""
        return _result(await self.post_form(content, name=name, purpose=purpose), expect, code)

    async def post_form(
        self, content: bytes, *, name: str = "file.bin", purpose: str | None = None
    ) -> httpx.Response:
        """As a browser sends a file."""
        form = {} if purpose is None else {"purpose": purpose}
        request = self.client.build_request(
            "POST",
            f"{API}/files/upload",
            files={"file": (name, content)},
            data=form,
            headers={"Authorization": f"Bearer {self.access_token}"} if self.tokens else {},
        )
        response = await self.client.send(request)
        check_answer(self.backend.deployment.openapi, "POST", response)
        return response

    async def download(
        self, file: Json, *, thumbnail: str | None = None, expect: int = 200, **headers: str
    ) -> httpx.Response:
        """The bytes of a file, or the refusal; `headers` with `_` for `-`."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        path = file["url"].removeprefix(API)
        response = await self.call("GET", path, headers=given, query={"thumbnail": thumbnail})
        assert response.status_code == expect, f"{response.status_code} {response.text[:500]}"
        return response

    async def ticket(self, chat_id: int | None = None) -> str:
        body = {} if chat_id is None else {"chat_id": chat_id}
        answer = await self.post("/auth/ws-ticket", body, expect=201)
        return answer["ticket"]

    async def connect(
        self,
        *,
        token: str | None = None,
        chat_id: int | None = None,
        hello: bool = True,
        **options: Any,
    ) -> Socket:
        """A socket on the node whose turn it is; by a ticket unless a token is given."""
        token = token or await self.ticket(chat_id)
        place = f"/ws/chat/{chat_id}/{token}" if chat_id is not None else f"/ws/{token}"
        url = self.backend.deployment.next_node().websocket_url + API + place
        socket = await Socket.open(url, hello=hello, **options)
        self.backend.stack.push_async_callback(socket.close)
        return socket

    async def private_chat(self, other: "Person") -> Json:
        return await self.post("/chats/", {"type": "private", "user_id": other.id})

    async def group(self, title: str, members: Sequence["Person"] = (), **options: object) -> Json:
        ids = [member.id for member in members]
        return await self.post(
            "/chats/", {"type": "group", "title": title, "member_ids": ids, **options}, expect=201
        )

    async def channel(
        self, title: str, members: Sequence["Person"] = (), **options: object
    ) -> Json:
        ids = [member.id for member in members]
        body = {"type": "channel", "title": title, "member_ids": ids, **options}
        return await self.post("/chats/", body, expect=201)

    async def say(self, chat: Json, text: str, **options: object) -> Json:
        return await self.post(
            "/messages/", {"chat_id": chat["id"], "text": text, **options}, expect=201
        )

    async def history(self, chat: Json, **query: object) -> list[Json]:
        answer = await self.get(f"/messages/chat/{chat['id']}", **query)
        return answer["items"]

    async def chat(self, chat: Json) -> Json:
        return await self.get(f"/chats/{chat['id']}")

    async def walk(self, path: str, **query: object) -> list[Json]:
        """All items of a list, page by page."""
        items: list[Json] = []
        cursor: str | None = None
        while True:
            page = await self.get(path, cursor=cursor, **query)
            assert page.keys() == {"items", "next_cursor"}, page.keys()
            items += page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return items


class Backend:
    """The backend of one test: signs people in and closes what they opened."""

    def __init__(self, deployment: Deployment, stack: AsyncExitStack) -> None:
        self.deployment = deployment
        self.stack = stack
        self.name = deployment.name

    def stranger(self) -> Person:
        """A client that is not signed in."""
        return Person(self)

    async def ask_code(self, phone: str) -> tuple[str, str]:
        """Ask for a code; answers (verification_id, code)."""
        answer = await self.stranger().post("/auth/send-verification", {"phone": phone}, expect=200)
        return answer["verification_id"], self.deployment.codes(answer["phone"])[-1]

    async def sign_in(self, phone: str, *, password: str | None = None, **fields: str) -> Person:
        """A further device of this phone's account, or a new account; by the reference client.

        `password`: the second one, where it is set.
        """
        transport = JudgedTransport(self.deployment.openapi)
        base_url = self.deployment.next_node().base_url
        async with Client(base_url, MemoryStore(), options=Options(transport=transport)) as client:
            sent = await client.request_code(phone)
            code = self.deployment.codes(sent["phone"])[-1]
            try:
                await client.sign_in(verification_id=sent["verification_id"], code=code, **fields)
            except PasswordRequired as needed:
                token = needed.password_token
                await client.sign_in_with_factor(token, password=password)
        return Person(self, transport.last, phone=sent["phone"])

    async def sign_up(
        self, phone: str | None = None, *, first_name: str = "Anna", **fields: str
    ) -> Person:
        """A new account."""
        person = await self.sign_in(
            phone or self.deployment.next_phone(), first_name=first_name, **fields
        )
        assert person.tokens["is_new_user"], "the phone already had an account"
        return person

    async def people(self, count: int) -> list[Person]:
        names = (
            "Anna",
            "Bruno",
            "Clara",
            "David",
            "Emil",
            "Frida",
            "Georg",
            "Hanna",
            "Ida",
            "Jonas",
        )
        return [
            await self.sign_up(first_name=names[number % len(names)]) for number in range(count)
        ]


def check_answer(openapi: OpenApi, method: str, response: httpx.Response) -> None:
    """What the conventions promise of every answer."""
    path = urlsplit(str(response.request.url)).path
    status, media_type = (
        response.status_code,
        response.headers.get("content-type", "").partition(";")[0],
    )
    assert response.headers.get("x-request-id"), f"{method} {path} -> {status} has no X-Request-ID"
    announced = {httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.INSUFFICIENT_STORAGE}
    assert status < _SERVER_FAULT or status in announced, (
        f"{method} {path} -> {status} {response.text[:500]}"
    )
    body = response.json() if response.content and media_type.endswith("json") else None
    if response.is_error and method != "HEAD":
        check_problem(response, body)
    openapi.judge(
        method, path, status, media_type, body if body is not None else response.text or None
    )


def check_problem(response: httpx.Response, problem: Json) -> None:
    """RFC 9457 with our members."""
    assert response.headers["content-type"] == "application/problem+json", response.headers[
        "content-type"
    ]
    assert {"type", "title", "status", "detail", "code"} <= problem.keys(), problem
    assert problem["status"] == response.status_code
    assert re.fullmatch(r"[a-z][a-z0-9_]*", problem["code"]), problem["code"]
    if response.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        assert problem["errors"], problem
        assert all(error.keys() == {"field", "message"} for error in problem["errors"]), problem
    if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
        assert int(response.headers["retry-after"]) > 0


def is_time(value: str) -> bool:
    """RFC 3339 in UTC with milliseconds and Z."""
    return bool(_TIME.fullmatch(value))


def new_id() -> str:
    return str(uuid.uuid4())


def _query_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _result(response: httpx.Response, expect: int | None, code: str | None) -> Json:
    request = response.request
    said = f"{request.method} {request.url.path} -> {response.status_code} {response.text[:800]}"
    if expect is None and code is None:
        assert response.is_success, said
    if expect is not None:
        assert response.status_code == expect, f"{said}, expected {expect}"
    body = response.json() if response.content else None
    if code is not None:
        assert isinstance(body, dict), said
        assert body.get("code") == code, f"{said}, expected {code}"
    if response.status_code == httpx.codes.NO_CONTENT:
        assert not response.content, said
    return body
