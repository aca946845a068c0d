"""A gateway on the test's own loop, whose insides a test may look at: what is open, what is held, what was recorded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from budgateway.app.dataplane import DataPlane
from budgateway.process.embedded import Gateway
from budgateway.records import Provider, Route, Settings, Timeouts, Upstream

SETTLE_S = 20.0


class Inside:
    """A running gateway and its insides."""

    def __init__(self, gateway: Gateway, log: Path) -> None:
        self.gateway = gateway
        self._log = log

    @property
    def url(self) -> str:
        """The URL that it listens on."""
        return self.gateway.url

    @property
    def plane(self) -> DataPlane:
        """The data plane of its one worker."""
        plane = self.gateway._plane
        assert plane is not None
        return plane

    @property
    def in_flight(self) -> int:
        """Exchanges that have begun and not ended."""
        return self.plane.relay.in_flight

    def gauge(self, which: int) -> int:
        """A gauge of the worker as of its last sweep."""
        return self.plane._segment.gauge(0, which)

    @property
    def slots(self) -> int:
        """Upstream slots that exchanges hold."""
        rooms = self.plane.snapshot.routes.compiled_routes
        return sum(
            destination.balancer.selector.in_flight(index)
            for room in rooms
            for destination in (*room.destinations, *room.fallbacks)
            for index in range(len(destination.balancer.targets))
        )

    @property
    def upstream_connections(self) -> int:
        """Open connections to upstreams, idle ones among them."""
        return sum(len(pool.open) for pool in self.plane.pools.values())

    @property
    def idle(self) -> int:
        """Connections that wait in the pools."""
        return sum(pool.idle_count() for pool in self.plane.pools.values())

    async def until(self, is_so: Callable[[], bool], what: str = "that") -> None:
        """Wait for something to become true."""
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while not is_so():
            assert asyncio.get_running_loop().time() < deadline, f"{what} never came about"
            await asyncio.sleep(0.002)

    async def at_rest(self) -> None:
        """Wait until nothing is held by any exchange."""
        await self.until(lambda: not self.in_flight and not self.slots, "rest")
        await self.until(lambda: self.upstream_connections == self.idle, "the end of busy connections")

    async def lines(self, count: int) -> list[dict[str, Any]]:
        """The access log once it has so many lines; more are a failure."""
        await self.until(lambda: self._log.read_bytes().count(b"\n") >= count, f"line {count} of the access log")
        lines = self._log.read_text().splitlines()
        assert len(lines) == count, lines
        return [json.loads(line) for line in lines]


@asynccontextmanager
async def inside(
    upstreams: str | Sequence[str],
    log: Path,
    *,
    path: str = "/*",
    route: dict[str, Any] | None = None,
    timeouts: dict[str, float] | None = None,
    provider: dict[str, Any] | None = None,
    upstream: dict[str, Any] | None = None,
    beside: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Inside]:
    """A gateway before these upstream URLs; the mappings and keywords are fields of the records. `beside`: further paths,
    each with an upstream of its own; `kinds`: the kinds of their providers, if not
    `openai`."""
    urls = [upstreams] if isinstance(upstreams, str) else upstreams
    record = Provider(
        name="p",
        upstreams=tuple(replace(upstream_of(url), **(upstream or {})) for url in urls),
        **{"kind": "openai", **(provider or {})},
    )
    only = Route(
        name="r", path=path, provider="p", replay_inference=True, timeouts=replace(Timeouts(), **(timeouts or {})),
        **{"auth_required": False, "max_body_bytes": settings.get("max_body_bytes", 10 << 20), **(route or {})},
    )  # fmt: skip
    others = [
        (at, Provider(name=at, kind=(kinds or {}).get(at, "openai"), upstreams=(upstream_of(url),)))
        for at, url in (beside or {}).items()
    ]
    routes = [Route(name=at, path=at, provider=at, auth_required=False) for at, _ in others]
    file = log / "access.log"
    file.touch()
    whole = Settings(
        host="127.0.0.1", port=0, providers=(record, *(other for _, other in others)), routes=(only, *routes), access_log=str(file), drain_s=1.0,
        **({"metrics_enabled": False} | settings),
    )  # fmt: skip
    async with Gateway(whole) as gateway:
        yield Inside(gateway, file)


def upstream_of(url: str) -> Upstream:
    """The record of an upstream URL."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    tls = parts.scheme == "https"
    return Upstream(url=url, tls=tls, host=parts.hostname, port=parts.port or (443 if tls else 80), path=parts.path)
