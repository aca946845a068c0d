"""A route's traffic over several providers: shares, canary, pinning, mirror, maintenance."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from budgateway.config.problems import shown
from budgateway.config.types import HeaderName, Seconds, Size, Table, Text, header_name

PIN = r"^(user|key|header:[A-Za-z0-9!#$%&'*+.^_`|~-]+)$"


class ShareConfig(Table):
    """One of a route's providers."""

    name: str
    """The name of a `[providers.X]` table."""
    weight: Annotated[int, Field(ge=0, le=65535)] = 1
    """Share of the traffic, relative to the route's other providers."""


class CanaryConfig(Table):
    """A provider that is tried with part of the traffic."""

    provider: str
    """The name of a `[providers.X]` table."""
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    """Share of the route's requests: 0.01 is one in a hundred."""
    header: HeaderName | None = None
    """Requests with this header always go to it."""
    value: Text | None = None
    """Value that the header must have."""


class MirrorConfig(Table):
    """A provider that gets copies of requests; its responses are discarded."""

    provider: str
    """The name of a `[providers.X]` table."""
    share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    """Share of the requests that is copied."""
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Copies in flight per worker; further requests are not copied."""
    max_body_size: Size = 1 << 20
    """Requests with larger bodies are not copied."""
    timeout: Seconds = 60
    """Maximum seconds for a copy."""


class MaintenanceConfig(Table):
    """Maintenance: refuse all requests with 503."""

    message: Text = "this route is under maintenance"
    """Message for clients."""
    retry_after: Seconds = 60
    """Value of the response header Retry-After, in seconds."""


def share_tables(value: object) -> object:
    """Turn a provider's name into a table."""
    return [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def pin(value: str) -> str:
    """Check `user`, `key` or `header:NAME`."""
    if not re.fullmatch(PIN, value):
        raise ValueError(f"must be user, key or header:NAME, got {shown(value)}")
    kind, colon, name = value.partition(":")
    return f"{kind}:{header_name(name)}" if colon else kind


def closed(value: object) -> object:
    """Turn true into a table of defaults, a text into a table with that message, and false into None."""
    if value is True:
        return {}
    if isinstance(value, str):
        return {"message": value}
    return None if value is False else value


Shares = Annotated[list[ShareConfig], BeforeValidator(share_tables, json_schema_input_type=list[str | ShareConfig])]
Pin = Annotated[str, AfterValidator(pin)]
Maintenance = Annotated[
    MaintenanceConfig | None, BeforeValidator(closed, json_schema_input_type=bool | str | MaintenanceConfig)
]


def leads_to(route: Mapping[str, object]) -> set[str]:
    """Return the providers that a route names in the raw configuration."""
    found = [route.get("provider")]
    for key in ("canary", "mirror"):
        table = route.get(key)
        found.append(table.get("provider") if isinstance(table, dict) else None)
    shares = route.get("providers")
    if isinstance(shares, list):
        found += [share.get("name") if isinstance(share, dict) else share for share in shares]
    fallbacks = route.get("fallback")
    for one in fallbacks if isinstance(fallbacks, list) else [fallbacks]:
        found.append(one.get("provider") if isinstance(one, dict) else one)
    return {name for name in found if isinstance(name, str) and name}
