"""Who the client is, as a table over peers, proxies and headers."""

from ipaddress import ip_network

import pytest

from app.transport.http.client_address import find_client_address, parse_address

NONE: list[str] = []
CASES = [
    # peer, trusted, X-Forwarded-For headers, expected
    (("8.8.8.8", 4000), NONE, NONE, "8.8.8.8"),
    (("8.8.8.8", 4000), NONE, ["1.1.1.1"], "8.8.8.8"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], NONE, "10.0.0.1"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], ["1.1.1.1"], "1.1.1.1"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], ["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], ["6.6.6.6", "1.1.1.1"], "1.1.1.1"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], ["6.6.6.6, garbage"], "10.0.0.1"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], ["1.1.1.1, garbage, 10.0.0.2"], "10.0.0.2"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], ["1.1.1.1:5555"], "1.1.1.1"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], ["[2001:db8::1]:5555"], "2001:db8::1"),
    (("::ffff:10.0.0.1", 4000), ["10.0.0.0/8"], ["1.1.1.1"], "1.1.1.1"),
    (("10.0.0.1", 4000), ["10.0.0.0/8"], [""], "10.0.0.1"),
    # Its own address and port, as whoever calls directly knows them, make nobody a proxy.
    (("6.6.6.6", 77), NONE, ["6.6.6.6:77"], "6.6.6.6"),
    (("6.6.6.6", 77), ["127.0.0.1/32"], ["6.6.6.6:77, 9.9.9.9"], "6.6.6.6"),
    (("2001:db8::6", 77), ["127.0.0.1/32"], ["[2001:db8::6]:77, 9.9.9.9"], "2001:db8::6"),
    # A Unix socket has no peer; whoever trusts a proxy trusts this one.
    (None, NONE, ["1.1.1.1"], "0.0.0.0"),
    (None, ["127.0.0.1/32"], ["1.1.1.1"], "1.1.1.1"),
]


@pytest.mark.parametrize(("peer", "trusted", "forwarded", "expected"), CASES)
def test_the_client_is(
    peer: tuple[str, int] | None, trusted: list[str], forwarded: list[str], expected: str
) -> None:
    scope = {
        "client": peer,
        "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded],
    }
    assert find_client_address(scope, [ip_network(network) for network in trusted]) == expected


def test_a_thousand_forged_hops_cost_nothing() -> None:
    header = ", ".join(["10.0.0.9"] * 10_000).encode()
    scope = {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", header)]}
    assert find_client_address(scope, [ip_network("10.0.0.0/8")]) == "10.0.0.9"


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "a", "[::1", "1.2.3.4:99999999", "::1%eth0%x"]
)
def test_garbage_is_no_address(text: str) -> None:
    assert parse_address(text) is None


def test_a_zone_is_cut_off() -> None:
    assert str(parse_address("fe80::1%eth0")) == "fe80::1"
