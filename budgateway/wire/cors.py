"""CORS: preflights, and the header lines that let a page of another origin read a response (Fetch standard).

The gateway decides; an upstream is never asked, and its own `access-control-*` lines are dropped, because browsers
reject a response that has two of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from budgateway.wire.date import date_line

if TYPE_CHECKING:
    from budgateway.native import RequestHead
    from budgateway.records import Cors

# The gateway's own response headers; pages may read them without their being listed in `expose`.
EXPOSED = (
    "x-request-id",
    "retry-after",
    "x-should-retry",
    "rate-limit-limit",
    "rate-limit-remaining",
    "rate-limit-reset",
    *(f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
    "x-budgateway-upstream",
    "x-budgateway-attempts",
    "x-budgateway-overhead-us",
)
MAX_REMEMBERED = 256  # origins that matched a pattern
MAX_ORIGIN_CHARS = 512
_VARY = b"vary: origin\r\n"
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ORIGIN_LINE = re.compile(rb"\n[Oo][Rr][Ii][Gg][Ii][Nn]:[ \t]*([!-~]{1,512})[ \t]*\r?\n")


class CrossOrigin:
    """One CORS policy, compiled: its patterns, and the header lines of responses."""

    def __init__(self, record: Cors) -> None:
        self.record = record
        self._all = "*" in record.origins
        # True when responses depend on the origin: caches must know it, and the fast path skips such requests.
        self.by_origin = not self._all
        self._exact = frozenset(origin for origin in record.origins if "*" not in origin)
        self._patterns = [_pattern(origin) for origin in record.origins if "*" in origin and not self._all]
        expose = "*" if "*" in record.expose else ", ".join(dict.fromkeys((*EXPOSED, *record.expose)))
        self._rest = f"access-control-expose-headers: {expose}\r\n".encode("ascii")
        if record.credentials:
            self._rest = b"access-control-allow-credentials: true\r\n" + self._rest
        # Header lines for requests without an origin, or with one that is not allowed.
        self.plain = b"access-control-allow-origin: *\r\n" + self._rest if self._all else _VARY
        self._remembered: dict[str, bytes] = {}

    def allows(self, origin: str) -> bool:
        """Return whether pages of this origin are allowed. Ignores case, although browsers send lower case."""
        if self._all:
            return True
        if len(origin) > MAX_ORIGIN_CHARS:
            return False
        origin = origin.lower()
        return origin in self._exact or any(pattern.fullmatch(origin) for pattern in self._patterns)

    def lines(self, origin: str | None) -> bytes:
        """Return the CORS header lines of a response, each with its CRLF."""
        if self._all or origin is None:
            return self.plain
        known = self._remembered.get(origin)
        if known is None:
            if not self.allows(origin):
                return self.plain
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            known = f"access-control-allow-origin: {origin}\r\n".encode("latin-1") + _VARY + self._rest
            self._remembered[origin] = known
        return known

    def grants(self, head: RequestHead) -> bool:
        """Return whether the policy allows everything that a preflight requests."""
        record = self.record
        method = head.header("access-control-request-method")
        if method not in record.methods:
            return False
        names = _names(head)
        return "*" in record.headers or all(name in record.headers for name in names)

    def preflight(self, head: RequestHead, request_id: str, close: bool) -> bytes:
        """Return the response to a preflight from an allowed origin; the browser compares it with its request."""
        record = self.record
        origin = head.header("origin") or ""
        allowed = _names(head) if "*" in record.headers else record.headers
        lines = [
            "HTTP/1.1 204 No Content",
            date_line(),
            f"access-control-allow-origin: {'*' if self._all else origin}",
            f"access-control-allow-methods: {', '.join(record.methods)}",
        ]
        if allowed:
            lines.append(f"access-control-allow-headers: {', '.join(allowed)}")
        if record.credentials:
            lines.append("access-control-allow-credentials: true")
        if record.private_network and (head.header("access-control-request-private-network") or "").lower() == "true":
            lines.append("access-control-allow-private-network: true")
        lines.append(f"access-control-max-age: {record.max_age_s}")
        lines.append("vary: origin, access-control-request-method, access-control-request-headers")
        lines.append(f"x-request-id: {request_id}")
        if close:
            lines.append("connection: close")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def is_same_origin(head: RequestHead, origin: str) -> bool:
    """Return whether a page came from the requested host. Schemes are not compared: a proxy may change them."""
    host = head.header("host") or ""
    return origin.partition("://")[2].lower() == host.lower() != ""


def origin_in(data: bytes) -> str | None:
    """Find the `origin` header in a head that failed to parse; None unless it is printable ASCII."""
    found = _ORIGIN_LINE.search(data)
    return None if found is None else found[1].decode("ascii")


def _names(head: RequestHead) -> tuple[str, ...]:
    """Return the header names that a preflight requests, in lower case; malformed names are skipped."""
    asked = (head.header("access-control-request-headers") or "").split(",")
    return tuple(dict.fromkeys(name.strip().lower() for name in asked if _NAME.fullmatch(name.strip())))


def _pattern(origin: str) -> re.Pattern[str]:
    """Compile an origin pattern: `*` as the port matches digits or no port, in front of a host one or more labels."""
    scheme, _, rest = origin.partition("://")
    port = ""
    if rest.endswith(":*"):
        rest, port = rest[:-2], r"(?::\d{1,5})?"
    if rest.startswith("*"):
        rest = rest[1:]
        return re.compile(rf"{re.escape(scheme)}://[a-z0-9_-]+(?:\.[a-z0-9_-]+)*{re.escape(rest)}{port}")
    return re.compile(f"{re.escape(scheme)}://{re.escape(rest)}{port}")
