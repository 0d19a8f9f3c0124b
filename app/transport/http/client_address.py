"""Who is calling: the peer, or what one of our own proxies says about it. Nobody else may name the client."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Annotated, Final, cast

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import Scope

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

SCOPE_KEY: Final = "messenger.client_address"
UNKNOWN_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - a name for "no peer" (a Unix socket), nothing binds to it
_WITH_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+))(?::\d{1,5})?", re.ASCII)
_MAX_HOPS = 20


async def get_client_address(connection: HTTPConnection) -> str:
    """The caller's IP address in canonical spelling."""
    return find_address(connection.scope)


ClientAddressDep = Annotated[str, Depends(get_client_address)]


def find_address(scope: Scope) -> str:
    """What the edge found out; without an edge, the peer."""
    found = scope.get(SCOPE_KEY)
    return cast("str", found) if found is not None else find_client_address(scope, ())


def find_client_address(scope: Scope, trusted: Sequence[Network]) -> str:
    """The peer's address, or the rightmost hop of `X-Forwarded-For` that is not one of ours."""
    hops = _list_values(scope, b"x-forwarded-for")
    peer = find_peer(scope)
    if not hops or not (_is_trusted(peer, trusted) if peer else trusted):
        return str(peer) if peer else UNKNOWN_ADDRESS
    client = peer
    for hop in reversed(hops[-_MAX_HOPS:]):
        address = parse_address(hop)
        if address is None:
            break
        client = address
        if not _is_trusted(address, trusted):
            break
    return str(client) if client else UNKNOWN_ADDRESS


def came_over_https(scope: Scope, trusted: Sequence[Network]) -> bool:
    """Whether the client's own connection was encrypted: ours, or as one of our proxies says, its."""
    said = _list_values(scope, b"x-forwarded-proto")
    if not said:
        return scope.get("scheme") in {"https", "wss"}  # ASGI lets it be left out
    peer = find_peer(scope)
    is_ours = _is_trusted(peer, trusted) if peer else bool(trusted)
    return is_ours and said[-1].lower() in {"https", "wss"}


def find_peer(scope: Scope) -> Address | None:
    """The other end of the connection, whatever its headers say; None on a Unix socket."""
    client = cast("tuple[str, int] | None", scope.get("client"))
    return None if client is None else parse_address(client[0])


def parse_address(text: str) -> Address | None:
    """With or without a port; IPv4 inside IPv6 becomes IPv4, so that one caller has one address."""
    match = _WITH_PORT.fullmatch(text)
    if match:
        text = match["v6"] or match["v4"]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def _list_values(scope: Scope, wanted: bytes) -> list[str]:
    """The members of a header that may come several times."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
    return [member.strip() for value in values for member in value.split(",")]


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)
