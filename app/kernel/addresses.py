"""What counts as one client for limits."""

from ipaddress import IPv6Address, IPv6Network, ip_address

_HOME_PREFIX = 64


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
