"""A token given to both verifiers, native and Python: they agree, or the native one leaves it to Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokens import SECRET

from budgateway.auth.bearer import Bearers, Verified
from budgateway.jose.jws import Refused
from budgateway.records import Issuer, Secret

OWN = Issuer("own", "", ("HS256",), secret=Secret(SECRET))


def is_decided_natively(bearers: Bearers, token: str, now: float) -> bool:
    """True when the native verifier decided about the token. Asserts that Python's answer is the same to the letter."""
    decided = bearers.native.verify(token, now) is not None
    assert answer(bearers.verify, token, now) == answer(bearers.verify_slowly, token, now), token
    return decided


def answer(verify: Callable[[str, float], Verified], token: str, now: float) -> tuple[Any, ...]:
    """Return everything that a verification tells its caller."""
    try:
        found = verify(token, now)
    except Refused as error:
        return type(error), str(error), getattr(error, "issuer", "")
    return type(found), found, type(found.expires)
