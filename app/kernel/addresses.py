"""What counts as one client for limits."""

from ipaddress import IPv6Address, IPv6Network, ip_address

_HOME_PREFIX = 64
_PROVIDER_PREFIX = 32


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
