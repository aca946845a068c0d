"""Compact JWS (RFC 7515): parsed strictly; nothing in it is trusted before the signature is verified."""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from math import isfinite
from typing import Any, NamedTuple

# The limit of a header line; PyJWT accepts a megabyte.
MAX_TOKEN_BYTES = 8 * 1024
MAX_KID_CHARS = 256

# Three parts of base64url without padding. The last character of a part carries two or four unused bits: they must be
# zero, or one signature could be written in sixteen ways.
_PART = r"((?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?)"
_COMPACT = re.compile(rf"{_PART}\.{_PART}\.{_PART}", re.ASCII)
_STANDARD = str.maketrans("-_", "+/")
_PADDING = ("", "", "==", "=")

# Header parameters that change the signed content or the method (RFC 7515 4.1.11, 7516, 7797): none is implemented.
_REFUSED_PARAMETERS = ("crit", "zip", "b64", "enc", "epk", "apu", "apv", "p2s", "p2c")
# RFC 8725 3.11: a token made for something else (a logout, a DPoP proof) is no access token.
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt", "jose"})


class Refused(Exception):
    """A credential is not valid. The message is for the operator's debugging, never for the client: the exact defect
    would help only an attacker."""


class Compact(NamedTuple):
    """A token split into its parts. Nothing in it is verified."""

    algorithm: str
    kid: str | None
    payload: bytes
    signed: bytes
    signature: bytes


def parse(token: str) -> Compact:
    """Split a token into its parts. Raises Refused for anything but a compact JWS with a plain header.

    `jwk`, `jku`, `x5u` and `x5c` in the header are ignored: a forger would name their own key there.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise Refused("longer than 8 KiB")
    found = _COMPACT.fullmatch(token)
    if found is None:
        raise Refused("not three parts of base64url without padding")
    head, body, signature = found.groups()
    header = json_object(decoded(head), "header")
    for name in _REFUSED_PARAMETERS:
        if name in header:
            raise Refused(f"header has {name!r}")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise Refused("header's typ is not an access token's")
    if "cty" in header and header["cty"] != "json":
        raise Refused("a token inside a token")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise Refused("header has no alg")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_CHARS or not kid.isprintable()):
        raise Refused("header's kid is not printable text of at most 256 characters")
    return Compact(algorithm, kid, decoded(body), token[: found.end(2)].encode("ascii"), decoded(signature))


def decoded(part: str) -> bytes:
    """Decode base64url. Raises Refused for anything else."""
    try:
        return a2b_base64(part.translate(_STANDARD) + _PADDING[len(part) % 4], strict_mode=True)
    except ValueError as error:
        raise Refused("not base64url") from error


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object (RFC 8259) with unique names. Raises Refused otherwise: parsers disagree about NaN, Infinity
    and repeated names."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except Refused:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise Refused(f"{what} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("a JSON name is repeated")
    return found


def _no_constant(text: str) -> float:
    raise Refused(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise Refused("a number is too large")
    return number
