"""Proof that a call which a cookie signs in was made by our own page: its origin, and a signed token.

The token is `nonce.mac` with a mac over the session and the nonce (signed double submit): it stands
in a cookie that our page can read, and the page repeats it in a header. A page of another site can do
neither, and whoever plants a cookie has no mac for this session. Calls with `Authorization: Bearer`
need none of this: no browser adds that header by itself.
"""

import hashlib
import hmac
import secrets
from typing import Final

from starlette.requests import HTTPConnection

from app.features.sessions.errors import CsrfRefused, OriginRefused
from app.infra.services import Services
from app.kernel.events import SecurityEvent
from app.kernel.ids import SessionId
from app.transport.http.origins import comes_from_own_page
from app.transport.http.routing import SAFE_METHODS

CSRF_HEADER: Final = "X-CSRF-Token"
_NONCE_BYTES: Final = 16


def make_csrf_token(services: Services, session_id: SessionId) -> str:
    """A new token of this session. Any number of them are valid as long as the session lives."""
    nonce = secrets.token_urlsafe(_NONCE_BYTES)
    return f"{nonce}.{_sign(services, session_id, nonce)}"


def require_own_page(services: Services, connection: HTTPConnection) -> None:
    """For calls that change something and that a cookie signs in, or will.

    Raises:
        OriginRefused: a page of another origin makes this call.
    """
    browser = services.settings.browser
    if not browser.csrf_protection or not _may_change(connection):
        return
    if not comes_from_own_page(connection.scope, browser.cors_origins):
        services.events.record(SecurityEvent("origin_refused"))
        raise OriginRefused


def require_csrf_token(
    services: Services, connection: HTTPConnection, *, session_id: SessionId, cookie: str | None
) -> None:
    """As above; `cookie` is the token in the cookie.

    Raises:
        CsrfRefused: the header does not repeat the cookie, or it is not a token of this session.
    """
    if not services.settings.browser.csrf_protection or not _may_change(connection):
        return
    values = connection.headers.getlist(CSRF_HEADER)
    header = values[0] if len(values) == 1 else ""
    if not (cookie and _are_equal(header, cookie) and _is_signed(services, session_id, header)):
        services.events.record(SecurityEvent("csrf_refused", session_id=session_id))
        raise CsrfRefused


def _may_change(connection: HTTPConnection) -> bool:
    return connection.scope.get("method") not in SAFE_METHODS


def _is_signed(services: Services, session_id: SessionId, token: str) -> bool:
    nonce, _, mac = token.partition(".")
    return _are_equal(mac, _sign(services, session_id, nonce))


def _sign(services: Services, session_id: SessionId, nonce: str) -> str:
    message = f"{session_id}.{nonce}".encode()
    return hmac.new(services.keyring.derive("csrf"), message, hashlib.sha256).hexdigest()


def _are_equal(one: str, other: str) -> bool:
    """In constant time; whatever characters were sent."""
    return hmac.compare_digest(one.encode(), other.encode())
