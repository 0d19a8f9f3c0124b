"""What a line of the log may hold of an address."""

import pytest

from app.kernel.addresses import AddressForm, shorten_address


@pytest.mark.parametrize(
    ("address", "form", "shown"),
    [
        ("203.0.113.77", "full", "203.0.113.77"),
        ("203.0.113.77", "network", "203.0.113.0/24"),
        ("203.0.113.77", "none", None),
        ("2001:db8:1:2:3::4", "full", "2001:db8:1:2:3::4"),
        ("2001:db8:1:2:3::4", "network", "2001:db8:1::/48"),
        ("2001:db8:1:2:3::4", "none", None),
        ("::ffff:203.0.113.77", "network", "203.0.113.0/24"),
        ("fe80::1%eth0", "network", "fe80::/48"),
        ("0.0.0.0", "network", "0.0.0.0/24"),
        # What is no address may be anything, a name for example.
        ("anna's telephone", "network", None),
        ("anna's telephone", "none", None),
    ],
)
def test_an_address_is_shown_as_far_as_it_may_be(
    address: str, form: AddressForm, shown: str | None
) -> None:
    assert shorten_address(address, form) == shown
