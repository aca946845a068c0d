"""Pages of other origins: what their browsers let them ask, and read of the answers (CORS, Fetch standard)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from budgateway.config.problems import shown
from budgateway.config.types import HeaderName, Methods, Table, one_or_many

ORIGIN = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(?::(?P<port>\d{1,5}|\*))?"
)
DEFAULT_PORTS = {"http": "80", "https": "443"}
EXAMPLE = 'write it as the browser sends it, such as "https://app.example.com"'


def origin(value: str) -> str:
    """An origin as browsers spell it (RFC 6454 6.2), `null`, `*`, or one with a `*` for its subdomains or its port."""
    if value in ("*", "null"):
        return value
    found = ORIGIN.fullmatch(value)
    if found is None:
        if ORIGIN.match(value) and re.search(r"[/?#]", value.partition("://")[2]):
            raise ValueError(f"an origin has no path, not even a slash, got {shown(value)}: {EXAMPLE}")
        raise ValueError(f"must be scheme, host and port of a page, got {shown(value)}: {EXAMPLE}")
    scheme, host, port = found["scheme"].lower(), found["host"].lower(), found["port"]
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{shown(value)} has no host that a browser can send") from None
    name = host.removeprefix("*.")
    # Behind another scheme (an extension's, an editor's) the host is made up at random.
    if "*" in name and not (host == "*" and scheme not in DEFAULT_PORTS):
        raise ValueError(
            f"a * stands for all names below a domain (https://*.example.com) or for a port (http://localhost:*), "
            f"got {shown(value)}"
        )
    return f"{scheme}://{host}" + (f":{port}" if port and port != DEFAULT_PORTS.get(scheme) else "")


Origins = Annotated[
    list[Annotated[str, AfterValidator(origin)]], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])
]
Names = Annotated[list[HeaderName], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])]


class RouteCorsConfig(Table):
    """CORS settings of a route; a key that is not set is inherited from `[cors]`."""

    origins: Origins = []
    """Allowed origins: `https://app.example.com`, `https://*.example.com`, `http://localhost:*`, `null`, or `*` for all."""
    methods: Methods = []
    """Allowed methods; default: all except OPTIONS."""
    headers: Names = ["*"]
    """Allowed request headers; `*` allows any."""
    credentials: bool = False
    """Allow cookies and client certificates. API keys and tokens do not need it."""
    max_age: Annotated[int, Field(ge=0, le=86_400)] = 600
    """Seconds a browser may cache the response to a preflight."""
    expose: Names = []
    """Response headers that pages may read, in addition to the gateway's own."""
    private_network: bool = False
    """Let pages from the internet reach a gateway in a private network (Private Network Access)."""


class CorsConfig(RouteCorsConfig):
    """CORS: access from pages of other origins. Without `origins` they have none."""

    admin: bool = False
    """Allow the same origins on /admin/ and /metrics."""


def for_route(value: object) -> object:
    """Turn false into no origins, true into those of `[cors]`, and a list of origins into a table."""
    if value is False:
        return {"origins": []}
    if value is True:
        return {}
    return {"origins": value} if isinstance(value, (str, list)) else value


RouteCors = Annotated[
    RouteCorsConfig | None,
    BeforeValidator(for_route, json_schema_input_type=bool | str | list[str] | RouteCorsConfig),
]
