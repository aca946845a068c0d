"""Cross-origin requests of browsers: preflights, and the header lines that let a page read an answer (Fetch standard).

An upstream is never asked about it and its own `access-control-*` lines never pass: two answers are none to a browser.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from budgateway.records import METHODS
from budgateway.wire.date import date_line

if TYPE_CHECKING:
    from budgateway.native import RequestHead

# What the gateway itself tells clients, that a page may read without being named in `expose`.
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
MAX_REMEMBERED = 256  # origins that a pattern let in
MAX_ORIGIN_CHARS = 512
_VARY = b"vary: origin\r\n"
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ORIGIN_LINE = re.compile(rb"\n[Oo][Rr][Ii][Gg][Ii][Nn]:[ \t]*([!-~]{1,512})[ \t]*\r?\n")


@dataclass(frozen=True, slots=True)
class Cors:
    """Pages of other origins that may use the gateway from a browser, and how (Fetch standard, CORS protocol)."""

    origins: tuple[str, ...]  # exact, `*` for all, or with a `*` for subdomains or the port
    methods: tuple[str, ...] = METHODS[:-1]
    headers: tuple[str, ...] = ("*",)  # that requests may have, lower case; `*`: whatever is asked for
    credentials: bool = False
    max_age_s: int = 600
    expose: tuple[str, ...] = ()  # of answers, besides the gateway's own
    private_network: bool = False
    admin: bool = False  # on the operators' own paths, too


class CrossOrigin:
    """What one table of the configuration allows, ready to answer."""

    def __init__(self, record: Cors) -> None:
        self.record = record
        self._all = "*" in record.origins
        # Whether answers depend on who asks: caches must know, and the fast path leaves such requests alone.
        self.by_origin = not self._all
        self._exact = frozenset(origin for origin in record.origins if "*" not in origin)
        self._patterns = [_pattern(origin) for origin in record.origins if "*" in origin and not self._all]
        expose = "*" if "*" in record.expose else ", ".join(dict.fromkeys((*EXPOSED, *record.expose)))
        self._rest = f"access-control-expose-headers: {expose}\r\n".encode("ascii")
        if record.credentials:
            self._rest = b"access-control-allow-credentials: true\r\n" + self._rest
        # Of answers to requests that name no origin, or one that is not let in.
        self.plain = b"access-control-allow-origin: *\r\n" + self._rest if self._all else _VARY
        self._remembered: dict[str, bytes] = {}

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may. In any case: browsers write schemes and hosts in lower case."""
        if self._all:
            return True
        if len(origin) > MAX_ORIGIN_CHARS:
            return False
        origin = origin.lower()
        return origin in self._exact or any(pattern.fullmatch(origin) for pattern in self._patterns)

    def lines(self, origin: str | None) -> bytes:
        """The header lines of an answer, each with its CRLF."""
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
        """Whether all that a preflight asks for may be."""
        record = self.record
        method = head.header("access-control-request-method")
        if method not in record.methods:
            return False
        names = _names(head)
        return "*" in record.headers or all(name in record.headers for name in names)

    def preflight(self, head: RequestHead, request_id: str, close: bool) -> bytes:
        """The answer to a preflight of an origin that is let in; the browser compares it with what it asked for."""
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
    """Whether the page came from where it asks, as far as the host says: which scheme a proxy in front has is not known."""
    host = head.header("host") or ""
    return origin.partition("://")[2].lower() == host.lower() != ""


def origin_in(data: bytes) -> str | None:
    """The origin in a head that could not be read as one; only what is printable."""
    found = _ORIGIN_LINE.search(data)
    return None if found is None else found[1].decode("ascii")


def _names(head: RequestHead) -> tuple[str, ...]:
    """The headers that a preflight asks about, in lower case; what is no name is none."""
    asked = (head.header("access-control-request-headers") or "").split(",")
    return tuple(dict.fromkeys(name.strip().lower() for name in asked if _NAME.fullmatch(name.strip())))


def _pattern(origin: str) -> re.Pattern[str]:
    """A `*` for the port is digits, one in front of a host is labels."""
    scheme, _, rest = origin.partition("://")
    port = ""
    if rest.endswith(":*"):
        rest, port = rest[:-2], r"(?::\d{1,5})?"
    if rest.startswith("*"):
        rest = rest[1:]
        return re.compile(rf"{re.escape(scheme)}://[a-z0-9_-]+(?:\.[a-z0-9_-]+)*{re.escape(rest)}{port}")
    return re.compile(f"{re.escape(scheme)}://{re.escape(rest)}{port}")
