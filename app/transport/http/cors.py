"""Pages of other origins: closed, but for the exact list CORS_ORIGINS. By Starlette's own middleware."""

from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.kernel.problems import Forbidden
from app.transport.http.client_address import Network
from app.transport.http.middleware import EdgeMiddleware

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "If-None-Match",
    "If-Range",
    "Range",
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Defer-Length",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-Auth-Mode",
    "X-CSRF-Token",
    "X-HTTP-Method-Override",
    "X-Request-ID",
)
_ANSWER_HEADERS: Final = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Defer-Length",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-File-ID",
    "X-File-URL",
    "X-Request-ID",
)


class CorsRefused(Forbidden):
    code = "cors_refused"
    title = "Pages of this origin may not make this call"


class CorsMiddleware(CORSMiddleware):
    """Outside the edge, so that errors carry the headers too: without them a page cannot read why.

    An origin that is not listed gets no CORS header at all. Credentials are allowed, since only
    listed origins get this far; the list holds neither `*` nor `null`.
    """

    def __init__(
        self, app: ASGIApp, *, origins: Collection[str], trusted_proxies: Sequence[Network]
    ) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_ANSWER_HEADERS,
            allow_credentials=True,
        )
        self._preflight = EdgeMiddleware(self._answer_preflight, trusted_proxies=trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if (
            origin is not None
            and scope["method"] == "OPTIONS"
            and "access-control-request-method" in headers
        ):
            await self._preflight(scope, receive, send)
        elif origin is None or self.is_allowed_origin(origin):
            await self.simple_response(scope, receive, send, request_headers=headers)
        else:
            await self.app(scope, receive, send)

    async def _answer_preflight(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = self.preflight_response(Headers(scope=scope))
        if response.status_code != HTTPStatus.OK:
            raise CorsRefused
        await response(scope, receive, send)
