"""From which page a request comes, as browsers say it and no page can forge: `Origin`, `Sec-Fetch-Site`."""

import re
from collections.abc import Collection
from typing import Final

from starlette.types import Scope

from app.transport.http.scheme import is_secure

# `none`: typed in by the user. A page of the same site but another origin is not ours.
_OWN_SITES: Final = frozenset({b"same-origin", b"none"})
_ORIGIN: Final = re.compile(r"(?P<scheme>https?)://(?P<netloc>[^/?#@\s]+)")


def comes_from_own_page(scope: Scope, allowed: Collection[str]) -> bool:
    """Whether a page of our own host, one of the `allowed` origins, or no browser at all asks.

    `Origin` decides: browsers send it with every call that could change something and with every
    WebSocket handshake. Without it `Sec-Fetch-Site` decides; a client without either is no browser
    (or an ancient one, for which there is the CSRF token).
    """
    origins = [value for name, value in scope["headers"] if name == b"origin"]
    if len(origins) > 1:
        return False
    if not origins:
        sites = [value for name, value in scope["headers"] if name == b"sec-fetch-site"]
        return all(site in _OWN_SITES for site in sites)
    origin = origins[0].decode("latin-1")
    return origin in allowed or _is_same_origin(origin, scope)


def _is_same_origin(origin: str, scope: Scope) -> bool:
    """The page's host is the one that was asked. A page over plain HTTP is not ours where we are HTTPS."""
    match = _ORIGIN.fullmatch(origin)
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if match is None or len(hosts) != 1:
        return False
    if is_secure(scope) and match["scheme"] != "https":
        return False
    return match["netloc"] == hosts[0].decode("latin-1").lower()
