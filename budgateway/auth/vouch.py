"""Vouching: how a worker tells the back office who is asking, in a header that clients cannot send."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable

from budgateway.records import Principal

# No allow-list towards an upstream has it, so that what the office receives under this name a worker wrote.
HEADER = "x-budgateway-principal"
_LINE_CHARS = 4096  # a line of a head has 8 KiB at most, and a token's claims may be longer


def vouch(principal: Principal) -> bytes:
    """The header lines that say who it is."""
    told = {
        "id": principal.id,
        "tenant": principal.tenant,
        "roles": principal.roles,
        "models": principal.models,
    }
    text = base64.b64encode(json.dumps(told, ensure_ascii=False).encode())
    pieces = (text[start : start + _LINE_CHARS] for start in range(0, len(text), _LINE_CHARS))
    return b"".join(b"%b: %b\r\n" % (HEADER.encode("ascii"), piece) for piece in pieces)


def vouched_for(headers: Iterable[tuple[str, str]]) -> Principal | None:
    """Whom a request's headers vouch for; None for who has no credential."""
    text = "".join(value for name, value in headers if name == HEADER)
    if not text:
        return None
    told = json.loads(base64.b64decode(text))
    return Principal(
        id=told["id"],
        tenant=told["tenant"],
        roles=tuple(told["roles"]),
        anonymous=False,
        models=tuple(told["models"]),
    )
