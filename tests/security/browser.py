"""A browser as the server sees it: cookies that it keeps, and the headers that no page can forge."""

import json
from http.cookies import Morsel, SimpleCookie
from typing import Any

import httpx

from tests.support.people import API, Backend, Json, check_answer
from tests.support.servers import Server

EVIL = "https://evil.example"
CSRF = "X-CSRF-Token"


class Browser:
    """One profile. Everything that it sends comes from a page of the server's own origin, unless told otherwise."""

    def __init__(
        self, backend: Backend, node: Server | None = None, *, https: bool = False
    ) -> None:
        self.backend = backend
        self.node = node or backend.deployment.next_node()
        self.client = httpx.AsyncClient(base_url=self.node.base_url, timeout=30, trust_env=False)
        backend.stack.push_async_callback(self.client.aclose)
        # Behind a proxy of ours that ends TLS; the jar of httpx sends `Secure` cookies over https alone.
        self.is_https = https
        self.cookies: dict[str, str] = {}
        self.set_cookies: dict[str, Morsel[str]] = {}

    @property
    def prefix(self) -> str:
        return "__Host-" if self.is_https else ""

    @property
    def csrf_token(self) -> str:
        return self.cookies.get(f"{self.prefix}csrf_token", "")

    @property
    def origin(self) -> str:
        return self.node.base_url.replace("http", "https" if self.is_https else "http")

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        origin: str | None = "own",
        csrf: str | None = "own",
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """`origin`, `csrf`: None leaves the header out."""
        head: dict[str, str] = {}
        if self.cookies:
            head["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.is_https:
            head["X-Forwarded-Proto"] = "https"
        if origin is not None and method != "GET":
            head["Origin"] = self.origin if origin == "own" else origin
        if csrf is not None and method != "GET":
            head[CSRF] = self.csrf_token if csrf == "own" else csrf
        if body is not None:
            content = json.dumps(body).encode()
            head["Content-Type"] = "application/json"
        answer = await self.client.request(
            method, API + path, content=content, headers=head | (headers or {})
        )
        self.client.cookies.clear()
        check_answer(self.backend.deployment.openapi, method, answer)
        self._keep(answer)
        return answer

    async def sign_in(self, phone: str, **more: Any) -> Json:
        verification_id, code = await self.backend.ask_code(phone)
        answer = await self.call(
            "POST",
            "/auth/verify-code",
            {"verification_id": verification_id, "code": code, **more},
            headers={"X-Auth-Mode": "cookie"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _keep(self, answer: httpx.Response) -> None:
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.set_cookies[name] = morsel
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refused call."""
    return answer.status_code, answer.json()["code"] if answer.content else ""
