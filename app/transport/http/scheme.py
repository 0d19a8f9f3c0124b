"""Whether the client's line is HTTPS, also where one of our own proxies ends it. Nobody else may say so."""

from collections.abc import Sequence

from starlette.types import Scope

from app.transport.http.client_address import Network, find_peer, is_trusted

_SECURE = frozenset({"https", "wss"})


def note_scheme(scope: Scope, trusted: Sequence[Network]) -> None:
    """Let `scope["scheme"]` tell of the client's line, by `X-Forwarded-Proto` of a trusted proxy."""
    said = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
    if not said or not _comes_from_proxy(scope, trusted):
        return
    nearest = said[-1].rpartition(b",")[2].strip().lower()
    if nearest in {b"http", b"https"}:
        is_socket = scope["type"] == "websocket"
        scope["scheme"] = nearest.decode().replace("http", "ws" if is_socket else "http")


def is_secure(scope: Scope) -> bool:
    """Whether the client speaks HTTPS."""
    return scope.get("scheme") in _SECURE


def _comes_from_proxy(scope: Scope, trusted: Sequence[Network]) -> bool:
    """A Unix socket is ours, once there are proxies at all."""
    forwarded = [
        value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"
    ]
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    peer = find_peer(scope, hops)
    return is_trusted(peer, trusted) if peer else bool(trusted)
