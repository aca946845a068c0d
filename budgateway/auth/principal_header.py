"""The principal header: carries the principal from a worker to the admin server. Clients cannot send it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import asdict
from math import inf

from budgateway.records import Allowance, Principal

# No header allow-list includes it, so whatever the admin server receives under this name was written by a worker.
HEADER = "x-budgateway-principal"
_LINE_CHARS = 4096  # a header line has 8 KiB at most, and a token's claims may be longer


def write_principal(principal: Principal, expires: float = inf) -> bytes:
    """Return the header lines with the principal and its credential's expiry (seconds since the epoch)."""
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


def read_principal(headers: Iterable[tuple[str, str]]) -> Principal | None:
    """Return the principal in a request's headers; None without a credential."""
    return read_principal_until(headers)[0]


def read_principal_until(headers: Iterable[tuple[str, str]]) -> tuple[Principal | None, float]:
    """Return the principal and its credential's expiry; None and infinity without a credential."""
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
