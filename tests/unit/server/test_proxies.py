"""The client's address behind trusted proxies."""

from __future__ import annotations

import pytest

from budgateway.native import RequestHead
from budgateway.server.proxies import MAX_HOPS, Proxies

TRUSTED = ("10.0.0.0/8", "127.0.0.1", "2001:db8::/32")


def client(peer: str, *lines: str, trusted: tuple[str, ...] = TRUSTED) -> str:
    wire = "".join(["GET / HTTP/1.1\r\nHost: x\r\n", *(f"X-Forwarded-For: {line}\r\n" for line in lines), "\r\n"])
    head = RequestHead.parse(wire.encode("latin-1"))
    assert head is not None
    return Proxies(trusted).client(peer, head)


def test_a_stranger_is_not_believed() -> None:
    assert client("192.0.2.1", "6.6.6.6") == "192.0.2.1"
    assert client("11.0.0.1", "6.6.6.6") == "11.0.0.1"
    assert client("local", "6.6.6.6") == "local"


def test_a_proxy_is_believed_about_who_spoke_to_it() -> None:
    assert client("10.0.0.1") == "10.0.0.1"
    assert client("10.0.0.1", "6.6.6.6") == "6.6.6.6"
    assert client("::ffff:10.0.0.1", "6.6.6.6") == "6.6.6.6"
    assert client("2001:db8::1", "2001:DB9:0::1") == "2001:db9::1"


def test_a_block_of_mapped_addresses_is_one_of_plain_ones() -> None:
    assert client("10.0.0.1", "6.6.6.6", trusted=("::ffff:10.0.0.0/104",)) == "6.6.6.6"
    assert client("11.0.0.1", "6.6.6.6", trusted=("::ffff:10.0.0.0/104",)) == "11.0.0.1"
    assert client("10.0.0.1", "6.6.6.6", trusted=("::ffff:10.0.0.1",)) == "6.6.6.6"


def test_what_the_client_wrote_itself_is_not_reached() -> None:
    assert client("10.0.0.1", "1.1.1.1, 6.6.6.6") == "6.6.6.6"
    assert client("10.0.0.1", "127.0.0.1, 10.9.9.9, 6.6.6.6, 10.0.0.3,10.0.0.2") == "6.6.6.6"
    # Several lines are one list, whoever added one.
    assert client("10.0.0.1", "1.1.1.1", "6.6.6.6, 10.0.0.2") == "6.6.6.6"


def test_a_chain_of_proxies_alone_ends_at_the_first_of_them() -> None:
    assert client("10.0.0.1", "10.0.0.3, 10.0.0.2") == "10.0.0.3"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("6.6.6.6:4711", "6.6.6.6"),
        ("[2001:db9::1]:4711", "2001:db9::1"),
        ("[2001:db9::1]", "2001:db9::1"),
        ("::ffff:6.6.6.6", "6.6.6.6"),
    ],
)
def test_ports_and_brackets_are_not_part_of_an_address(written: str, expected: str) -> None:
    assert client("10.0.0.1", written) == expected


@pytest.mark.parametrize(
    "junk", ["unknown", "", "_hidden", "6.6.6", "6.6.6.6.6", "[", "1::2::3", "fe80::1%eth0", "x" * 4000, "\xff"]
)
def test_what_is_no_address_ends_the_reading(junk: str) -> None:
    assert client("10.0.0.1", junk) == "10.0.0.1"
    assert client("10.0.0.1", f"1.1.1.1, {junk}, 10.0.0.2") == "10.0.0.2"


def test_a_long_list_is_read_from_the_right_and_not_to_its_end() -> None:
    assert client("10.0.0.1", "6.6.6.6" + ", 10.0.0.2" * (MAX_HOPS - 1)) == "6.6.6.6"
    assert client("10.0.0.1", "6.6.6.6" + ", 10.0.0.2" * MAX_HOPS) == "10.0.0.2"
