"""What counts as one client for limits, and what of an address is told to whom."""

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, assert_never

AddressForm = Literal["full", "network", "none"]

_HOME_PREFIX = 64
_PROVIDER_PREFIX = 32
# What one attacker rents at once: the whole assignment of a site, and the neighbours in a data centre.
_WIDE_PREFIX_4 = 16
_WIDE_PREFIX_6 = 48
# With these a line tells of some hundred lines of one provider; a /64 is a household, as one IPv4 address is.
_LOGGED_PREFIX_4 = 24
_LOGGED_PREFIX_6 = 48


def network_of(address: str) -> str:
    """The address itself for IPv4; its /64 for IPv6, of which every home has 2^64 addresses.

    What is no address stands for itself.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((int(parsed), _HOME_PREFIX), strict=False))
    return str(parsed)


def wide_network_of(address: str) -> str:
    """Its /16 for IPv4, its /48 for IPv6: where there are too many clients to tell them apart.

    What is no address stands for itself.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    prefix = _WIDE_PREFIX_6 if isinstance(parsed, IPv6Address) else _WIDE_PREFIX_4
    return str(ip_network(f"{parsed}/{prefix}", strict=False))


@lru_cache(maxsize=4_096)
def shorten_address(address: str, form: AddressForm) -> str | None:
    """As the log may hold it: as it is, its /24 or (IPv6) /48, or not at all.

    What is no address is held back, unless all is told.
    """
    match form:
        case "full":
            return address
        case "none":
            return None
        case "network":
            return _find_network(address)
        case _:
            assert_never(form)


def _find_network(address: str) -> str | None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    prefix = _LOGGED_PREFIX_6 if isinstance(parsed, IPv6Address) else _LOGGED_PREFIX_4
    return str(ip_network(f"{parsed}/{prefix}", strict=False))


def place_of(address: str) -> str | None:
    """Roughly where a device is, for its owner's eyes: `192.0.x.x`, of IPv6 the provider's /32,
    `2001:db8:x`. Tells a stranger's sign-in from one's own, and needs no database of places.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        network = IPv6Network((int(parsed), _PROVIDER_PREFIX), strict=False)
        return ":".join(f"{int(part, 16):x}" for part in network.exploded.split(":")[:2]) + ":x"
    four = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else parsed
    first, second, *_ = str(four).split(".")
    return f"{first}.{second}.x.x"
