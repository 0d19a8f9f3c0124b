"""What browsers are told to refuse, on every answer, be it an error or a refused handshake. Plain ASGI."""

from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any, Final, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.transport.http.client_address import Network, came_over_https

RawHeaders = list[tuple[bytes, bytes]]

# The API answers nothing that a browser may render, run, frame or let others read.
SECURITY_HEADERS: Final[Sequence[tuple[bytes, bytes]]] = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            b"object-src 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"permissions-policy",
        (
            b"accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), "
            b"microphone=(), midi=(), payment=(), usb=()"
        ),
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
)
# Two years. Only over HTTPS: browsers ignore it elsewhere, and a name that serves HTTP means to.
_HSTS: Final = (b"strict-transport-security", b"max-age=63072000; includeSubDomains")
_DENIAL: Final = "websocket.http.response"


class SecurityHeadersMiddleware:
    """Adds what the answer does not say itself: a page may bring a policy of its own."""

    def __init__(self, app: ASGIApp, *, trusted_proxies: Sequence[Network] = ()) -> None:
        self._app = app
        self._trusted_proxies = tuple(trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._app(scope, receive, self._mark_answers(scope, send))
        elif scope["type"] == "websocket" and _DENIAL in (scope.get("extensions") or {}):
            await self._app(scope, receive, self._mark_denials(scope, send))
        else:
            await self._app(scope, receive, send)

    def _mark_answers(self, scope: Scope, send: Send) -> Send:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(scope, message)
            await send(message)

        return send_marked

    def _mark_denials(self, scope: Scope, send: Send) -> Send:
        """A socket that is closed before it was accepted is an HTTP answer, which servers make without headers."""
        is_accepted = False

        async def send_marked(message: Message) -> None:
            nonlocal is_accepted
            if is_accepted:
                await send(message)
                return
            match message["type"]:
                case "websocket.close":
                    denial: Message = {"type": f"{_DENIAL}.start", "status": 403, "headers": []}
                    self._add(scope, denial)
                    cast("RawHeaders", denial["headers"]).append((b"content-length", b"0"))
                    await send(denial)
                    await send({"type": f"{_DENIAL}.body", "body": b""})
                    return
                case "websocket.http.response.start":
                    self._add(scope, message)
                case "websocket.accept":
                    is_accepted = True
                case _:
                    pass
            await send(message)

        return send_marked

    def _add(self, scope: Scope, message: MutableMapping[str, Any]) -> None:
        headers = cast("RawHeaders", list(message.get("headers") or ()))
        add_missing(headers, SECURITY_HEADERS)
        if came_over_https(scope, self._trusted_proxies):
            add_missing(headers, (_HSTS,))
        message["headers"] = headers


def add_missing(headers: RawHeaders, wanted: Iterable[tuple[bytes, bytes]]) -> None:
    """Add those of `wanted` that are not there yet."""
    present = {name.lower() for name, _ in headers}
    headers.extend(header for header in wanted if header[0] not in present)
