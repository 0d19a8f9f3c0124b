"""The edge of every request: its id, its client, one log line, and the answer to what nobody foresaw.

Plain ASGI: `BaseHTTPMiddleware` was measured to cost most of the throughput.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Final, cast

import structlog
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.infra.deadline import begin_call
from app.infra.logging.context import LogContext, begin_log_context
from app.kernel.addresses import AddressForm, shorten_address
from app.kernel.problems import BadRequest, Problem, Unavailable
from app.transport.http.client_address import SCOPE_KEY, Network, find_client_address
from app.transport.http.limits import ANSWER_HEADERS
from app.transport.http.problems import (
    internal_error_response,
    problem_response,
    route_template,
)
from app.transport.http.refusals import record_http_refusal, record_probe
from app.transport.http.scheme import note_scheme

MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 32_768
_CLIENT_CLOSED = 499

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(
    rb"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?"
)

log = structlog.stdlib.get_logger("app.http")


class HostInvalid(BadRequest):
    code = "host_invalid"
    title = "The Host header is missing, doubled or malformed"


class HeadersTooLarge(BadRequest):
    code = "headers_too_large"
    title = "The request has too many or too large headers"


def install_edge(
    app: FastAPI,
    *,
    trusted_proxies: Sequence[Network],
    max_body_size: int,
    logged_addresses: AddressForm = "network",
) -> None:
    """Put the edge around `app`; call it after every other `add_middleware` but that of security headers."""
    app.state.max_body_size = max_body_size
    app.add_middleware(
        EdgeMiddleware, trusted_proxies=trusted_proxies, logged_addresses=logged_addresses
    )


class EdgeMiddleware:
    """Nothing gets in without an id and a sane head, nothing gets out without an answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        trusted_proxies: Sequence[Network] = (),
        logged_addresses: AddressForm = "network",
    ) -> None:
        self._app = app
        self._trusted_proxies = tuple(trusted_proxies)
        self._logged_addresses: AddressForm = logged_addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope[SCOPE_KEY] = address = find_client_address(scope, self._trusted_proxies)
        note_scheme(scope, self._trusted_proxies)
        request_id = find_request_id(scope) or make_request_id()
        context = begin_log_context(request_id, address=address)
        record_probe(scope)
        if scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
        else:
            client = shorten_address(address, self._logged_addresses)
            await _Exchange(self._app, context, client).serve(scope, receive, send)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The gateway answers and logs for itself; a bad head is refused before the handshake."""
        try:
            check_head(scope)
        except Problem:
            await receive()
            await send({"type": "websocket.close", "code": 4400})
            return
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # The stop waits no longer for it. The client was told long ago.
            log.info("socket_abandoned")


class _Exchange:
    """One HTTP request and what became of it."""

    def __init__(self, app: ASGIApp, context: LogContext, client: str | None) -> None:
        """`client`: what the log may hold of its address."""
        self._app = app
        self._context = context
        self._client = {} if client is None else {"client": client}
        self._status: int | None = None

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        added: dict[str, str] = {}
        scope[ANSWER_HEADERS] = added
        call = begin_call()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.end()  # a long body may take its time
                self._status = cast("int", message["status"])
                self._mark(message, added)
            await send(message)

        try:
            check_head(scope)
            await self._app(scope, receive, send_marked)
        except Problem as problem:
            record_http_refusal(scope, problem, route=route_template(scope))
            await problem_response(problem)(scope, receive, send_marked)
        except ClientDisconnect:
            self._status = self._status or _CLIENT_CLOSED
        except asyncio.CancelledError:
            # The stop waits no longer for it: whether it took effect is unknown.
            if self._status is None:
                unavailable = problem_response(Unavailable(retry_after=1))
                await unavailable(scope, receive, send_marked)
        except (
            Exception
        ):  # an edge: whatever it was, the caller gets an answer and the log the trace
            log.exception("request_failed", route=route_template(scope))
            await self._answer_failure(scope, receive, send_marked)
        finally:
            call.end()
            self._record(scope, (time.perf_counter() - started) * 1000)

    async def _answer_failure(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._status is None:
            await internal_error_response(self._context.request_id)(scope, receive, send)
            return
        # A half-sent answer cannot be taken back; without its end the client knows it is not whole.
        msg = "the answer was already under way"
        raise ConnectionAbortedError(msg)

    def _mark(self, message: Message, added: Mapping[str, str]) -> None:
        headers = MutableHeaders(raw=message.setdefault("headers", []))
        headers["X-Request-ID"] = self._context.request_id
        headers.setdefault("Cache-Control", "no-store")
        for name, value in added.items():
            own = headers.get(name)
            headers[name] = value if own is None else f"{own}, {value}"

    def _record(self, scope: Scope, milliseconds: float) -> None:
        """User and request id come from the context, as in every other line."""
        log.info(
            "request",
            method=scope["method"],
            route=route_template(scope),
            status=self._status or _CLIENT_CLOSED,
            ms=round(milliseconds, 1),
            **self._client,
        )


def check_head(scope: Scope) -> None:
    """Bounds of the head, and a Host that is one (nothing here decides by it, but proxies and caches do).

    Raises:
        HostInvalid: host_invalid
        HeadersTooLarge: headers_too_large
    """
    headers = cast("list[tuple[bytes, bytes]]", scope["headers"])
    if (
        len(headers) > MAX_HEADERS
        or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES
    ):
        raise HeadersTooLarge
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and scope.get("http_version", "1.1") != "1.0"):
        raise HostInvalid
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise HostInvalid


def find_request_id(scope: Scope) -> str | None:
    """The caller's `X-Request-ID`, if it sent a single sane one."""
    values = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(values) == 1 and _REQUEST_ID.fullmatch(values[0]):
        return cast("bytes", values[0]).decode("ascii")
    return None


def make_request_id() -> str:
    return secrets.token_hex(12)
