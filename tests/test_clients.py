"""Whose address a request comes from, behind any number of proxies."""

from ipaddress import ip_network

import pytest

from ticketboss.web import clients

OURS = tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.7", "fd00::/8")))


@pytest.fixture(autouse=True)
def _empty():
    """Leave the database alone: nothing here needs one."""


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        # A stranger's word counts for nothing.
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1,203.0.113.9 , 192.0.2.7", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("fd00::1", "2001:DB8::1", "2001:db8::1"),
        # IPv4 on a socket that takes IPv6, too.
        ("::ffff:10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        # What is no address is not repeated.
        ("10.0.0.1", "203.0.113.9, secret", "10.0.0.1"),
        ("10.0.0.1", "secret, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", ",,", "10.0.0.1"),
        ("", "203.0.113.9", None),
        (None, None, None),
    ],
)
def test_the_client_is_the_last_address_that_is_not_a_proxy_of_ours(peer, forwarded, address):
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
    given = {name: value for name, value in environ.items() if value is not None}
    assert clients.address(given, OURS) == address


def test_nobody_is_believed_where_no_proxies_are_named():
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.9"}
    assert clients.address(environ, ()) == "10.0.0.1"
