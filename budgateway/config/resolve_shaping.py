"""A route's traffic shaping: checked against the rest of the route, and converted to records."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from budgateway.records import Canary, Maintenance, Mirror, WebSocket

if TYPE_CHECKING:
    from budgateway.config.problems import Problems
    from budgateway.config.schema import RouteConfig
    from budgateway.config.schema_shaping import CanaryConfig, MaintenanceConfig, MirrorConfig
    from budgateway.config.schema_websocket import WebSocketConfig
    from budgateway.config.source import KeyPath


class Shaping(TypedDict):
    """Fields of a Route that shape its traffic."""

    provider: str
    split: tuple[tuple[str, int], ...]
    canary: Canary | None
    pin_by: str
    mirror: Mirror | None
    maintenance: Maintenance | None
    websocket: WebSocket | None


def named(table: RouteConfig) -> dict[KeyPath, str]:
    """Return every provider that a route leads to, by the key that names it."""
    names: dict[KeyPath, str] = {}
    if table.provider or not table.providers:
        names["provider",] = table.provider
    for index, share in enumerate(table.providers):
        names["providers", index, "name"] = share.name
    for index, fallback in enumerate(table.fallback):
        names["fallback", index, "provider"] = fallback.provider
    if table.canary is not None:
        names["canary", "provider"] = table.canary.provider
    if table.mirror is not None:
        names["mirror", "provider"] = table.mirror.provider
    return names


def leading(table: RouteConfig) -> str:
    """Return the provider that answers, or the one with the largest share."""
    return max(table.providers, key=lambda share: share.weight).name if table.providers else table.provider


def shaping(here: KeyPath, table: RouteConfig, methods: tuple[str, ...], problems: Problems) -> Shaping:
    """Return a route's traffic shaping; note what does not fit together."""
    shares = table.providers
    names = [share.name for share in shares] or [table.provider]
    if shares and table.provider:
        problems.add((*here, "provider"), "conflicts with providers: keep one of the two")
    for index, share in enumerate(shares):
        if share.name in names[:index]:
            problems.add((*here, "providers", index, "name"), f"{share.name!r} is listed already: use weight")
    if shares and not any(share.weight for share in shares):
        problems.add((*here, "providers"), "all weights are 0: no provider would answer")
    canary = table.canary
    if canary is not None:
        if canary.provider in names:
            problems.add((*here, "canary", "provider"), "answers this route anyway: use weight")
        if not canary.share and canary.header is None:
            problems.add((*here, "canary"), "gets no traffic: set share, header, or both")
        if canary.value is not None and canary.header is None:
            problems.add((*here, "canary", "value"), "has no effect without header")
    if table.websocket is not None:
        if methods != ("GET",):
            problems.add((*here, "method"), "a WebSocket handshake is a GET: leave method out")
        if table.mirror is not None:
            problems.add((*here, "mirror"), "a WebSocket cannot be copied")
        if table.pin_by == "user":
            problems.add((*here, "pin_by"), "a WebSocket has no body that could name a user: pin by key or header:NAME")
    return {
        "provider": leading(table),
        "split": tuple((share.name, share.weight) for share in shares),
        "canary": None if canary is None else _canary(canary),
        "pin_by": table.pin_by or "",
        "mirror": None if table.mirror is None else _mirror(table.mirror),
        "maintenance": None if table.maintenance is None else _maintenance(table.maintenance),
        "websocket": None if table.websocket is None else _websocket(table.websocket),
    }


def _canary(table: CanaryConfig) -> Canary:
    return Canary(table.provider, table.share, table.header or "", table.value or "")


def _mirror(table: MirrorConfig) -> Mirror:
    return Mirror(table.provider, table.share, table.max_in_flight, table.max_body_size, table.timeout)


def _maintenance(table: MaintenanceConfig) -> Maintenance:
    return Maintenance(table.message, table.retry_after)


def _websocket(table: WebSocketConfig) -> WebSocket:
    return WebSocket(table.idle_timeout, table.max_message_size, table.compression)
