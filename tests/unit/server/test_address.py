"""One client has one address, and IPv6 clients are counted by network."""

from __future__ import annotations

import pytest

from budgateway.admin.bounds import MAX_ADDRESSES, Bounds
from budgateway.server.address import MAX_REMEMBERED, Networks, plain_address


@pytest.mark.parametrize(
    ("told", "plain"),
    [
        ("192.0.2.1", "192.0.2.1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"), ("::ffff:0:1", "::ffff:0:1"),
    ],
)  # fmt: skip
def test_an_address_is_plain(told: str, plain: str) -> None:
    assert plain_address(told) == plain


@pytest.mark.parametrize(
    ("prefix", "client", "network"),
    [
        (64, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), (64, "2001:db8:1:2::9", "2001:db8:1:2::/64"),
        (64, "2001:db8:1:3::9", "2001:db8:1:3::/64"), (48, "2001:db8:1:3::9", "2001:db8:1::/48"),
        (128, "2001:db8:1:3::9", "2001:db8:1:3::9"), (64, "::1", "::1"), (64, "fe80::1", "fe80::1"),
        (64, "192.0.2.1", "192.0.2.1"), (64, "local", "local"), (64, "no:address", "no:address"),
    ],
)  # fmt: skip
def test_limits_count_networks(prefix: int, client: str, network: str) -> None:
    networks = Networks(prefix)
    assert [networks.of(client) for _ in range(2)] == [network] * 2


def test_networks_that_are_remembered_are_bounded() -> None:
    networks = Networks()
    for number in range(MAX_REMEMBERED + 5):
        networks.of(f"2001:db8::{number:x}")
    assert len(networks._known) <= MAX_REMEMBERED


def test_bounds_let_a_burst_in_and_then_a_rate() -> None:
    bounds = Bounds(per_minute=60, burst=3)
    assert [bounds.admit("a", 0) for _ in range(3)] == [0, 0, 0]
    assert bounds.admit("a", 0) == 1_000_000_000
    assert bounds.admit("b", 0) == 0
    assert bounds.admit("a", 1_000_000_000) == 0
    assert bounds.admit("a", 1_000_000_000) == 1_000_000_000
    assert [bounds.admit("a", 10_000_000_000) for _ in range(3)] == [0, 0, 0]


def test_addresses_that_are_bound_are_bounded() -> None:
    bounds = Bounds(per_minute=60, burst=3)
    for now_ns in (0, 10**12):
        for number in range(MAX_ADDRESSES + 5):
            assert bounds.admit(str(number), now_ns) == 0
    assert len(bounds._full_at) <= MAX_ADDRESSES
