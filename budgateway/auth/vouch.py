"""Vouching: how a worker tells the back office who is asking, in a header that clients cannot send."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from math import inf

from budgateway.records import Allowance, Principal

# No allow-list towards an upstream has it, so that what the office receives under this name a worker wrote.
HEADER = "x-budgateway-principal"
_LINE_CHARS = 4096  # a line of a head has 8 KiB at most, and a token's claims may be longer


def vouch(principal: Principal, expires: float = inf) -> bytes:
    """The header lines that say who it is, and until when (seconds since the epoch) that is known."""
    told = {
        "id": principal.id,
        "tenant": principal.tenant,
        "roles": principal.roles,
        "groups": principal.groups,
        "models": principal.models,
        "allowance": None if principal.allowance is None else asdict(principal.allowance),
        "expires": None if expires == inf else expires,
    }
    text = base64.b64encode(json.dumps(told, ensure_ascii=False).encode())
    pieces = (text[start : start + _LINE_CHARS] for start in range(0, len(text), _LINE_CHARS))
    return b"".join(b"%b: %b\r\n" % (HEADER.encode("ascii"), piece) for piece in pieces)


def vouched_for(headers: Iterable[tuple[str, str]]) -> Principal | None:
    """Whom a request's headers vouch for; None for who has no credential."""
    return vouched_until(headers)[0]


def vouched_until(headers: Iterable[tuple[str, str]]) -> tuple[Principal | None, float]:
    """The same, and until when."""
    text = "".join(value for name, value in headers if name == HEADER)
    if not text:
        return None, inf
    told = json.loads(base64.b64decode(text))
    principal = Principal(
        id=told["id"],
        tenant=told["tenant"],
        roles=tuple(told["roles"]),
        anonymous=False,
        groups=tuple(told["groups"]),
        models=tuple(told["models"]),
        allowance=None if told["allowance"] is None else Allowance(**told["allowance"]),
    )
    return principal, inf if told["expires"] is None else told["expires"]
