"""The principal header: the admin server reads the principal that a worker wrote, however long it is."""

from __future__ import annotations

import pytest

from budgateway.auth.principal_header import HEADER, read_principal, read_principal_until, write_principal
from budgateway.native import RequestHead
from budgateway.records import Allowance, Principal


@pytest.mark.parametrize(
    "principal",
    [
        Principal("key:k", anonymous=False),
        Principal("jwt:own:Åsa 東京", "t", ("a", "b"), anonymous=False, models=("gpt-*", "")),
        Principal("key:k", groups=("g h",), anonymous=False, allowance=Allowance(burst=3, budget_usd=0.5)),
        Principal("jwt:own:x", roles=tuple(f"role-{number:030}" for number in range(256)), anonymous=False),
    ],
)
def test_it_comes_through_a_head(principal: Principal) -> None:
    head = RequestHead.parse(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + write_principal(principal) + b"\r\n")
    assert head is not None
    assert read_principal(head.headers()) == principal


@pytest.mark.parametrize("expires", [1_800_000_000.5, float("inf")])
def test_so_does_the_end_of_the_credential(expires: float) -> None:
    principal = Principal("key:k", anonymous=False)
    head = RequestHead.parse(b"GET / HTTP/1.1\r\nhost: x\r\n" + write_principal(principal, expires) + b"\r\n")
    assert head is not None
    assert read_principal_until(head.headers()) == (principal, expires)


def test_without_the_header_it_is_nobody() -> None:
    assert read_principal([("host", "x"), ("x-other", "y")]) is None
    assert HEADER.islower()
