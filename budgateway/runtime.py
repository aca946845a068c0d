"""The composition root: a configuration becomes a Snapshot with all rooms wired, and a data plane that serves it."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.auth.authenticator_cy import Authenticator, TokenAuthenticator
from budgateway.balance.balancer_cy import Balancer
from budgateway.limits.requests_cy import RequestLimits
from budgateway.observe.access import FLUSH_BYTES, AccessWriter
from budgateway.observe.record_cy import Recorder
from budgateway.pipeline_cy import Snapshot
from budgateway.providers.adapter_cy import OpenAIAdapter
from budgateway.records import Provider, Route, Settings, Upstream
from budgateway.relay_cy import Relay
from budgateway.routing.router_cy import Access, Router, RouteRoom
from budgateway.server.connection_cy import Door
from budgateway.transport.client_cy import Pool, Target
from budgateway.transport.dial import Dialler, client_tls

if TYPE_CHECKING:
    from collections.abc import Coroutine

SWEEP_S = 0.25
BACKLOG = 4096
OFFICE = "gateway"

# The gateway's own paths come before every route but `/v1/models`, which a route of the operator's may claim.
_OFFICE_PATHS: tuple[tuple[str, Access, int], ...] = (
    ("/health", "open", 1_000_000),
    ("/livez", "open", 1_000_000),
    ("/readyz", "open", 1_000_000),
    ("/metrics", "metrics", 1_000_000),
    ("/v1/models", "open", 0),
    ("/v1/models/{name:path}", "open", 0),
)

_log = logging.getLogger("budgateway.runtime")


def targets_of(provider: Provider, pools: dict[str, Pool], *, disclose: bool) -> tuple[Target, ...]:
    """A provider's upstreams as the relay sees them; pools are shared by URL and outlive the configuration."""
    key = provider.api_key
    fixed = [(name, secret.reveal()) for name, secret in provider.headers]
    if key is not None:
        fixed.append(("authorization", f"Bearer {key.reveal()}"))
    secure = any(upstream.tls for upstream in provider.upstreams)
    tls = client_tls(provider.tls_verify, provider.tls_ca_file) if secure else None
    dialler = Dialler(provider.connect_timeout_s, tls)
    targets = []
    for number, upstream in enumerate(provider.upstreams):
        pool = pools.get(upstream.url)
        label = provider.name if len(provider.upstreams) == 1 else f"{provider.name}/{number}"
        if pool is None:
            pool = Pool(label, keepalive_ns=int(provider.keepalive_s * 1e9), max_idle=provider.max_idle)
            pools[upstream.url] = pool
        writer = native.RequestHeadWriter(
            _authority(upstream), upstream.path, provider.strip_prefix, provider.forward_headers, fixed
        )
        targets.append(Target(upstream, label, pool, writer, dialler, disclose=disclose))
    return tuple(targets)


def build_snapshot(
    settings: Settings, segment: native.Segment, worker: int, pools: dict[str, Pool], office_path: str
) -> Snapshot:
    """Wire all rooms for one configuration. No side effects but names interned in the segment."""
    providers = {provider.name: provider for provider in settings.providers}
    targets = {name: targets_of(provider, pools, disclose=settings.disclose) for name, provider in providers.items()}
    rooms = [
        _route_room(route, providers[route.provider], targets, settings, segment, worker) for route in settings.routes
    ]
    rooms += _office_rooms(settings, segment, worker, pools, office_path)
    overall = settings.rate_limit
    auth = Authenticator() if settings.jwt_secret is None else TokenAuthenticator(settings.jwt_secret)
    limit = native.RateLimit(segment, "gateway", overall.per_minute, overall.burst) if overall is not None else None
    labels = {name: segment.intern(name) for name in _model_names(settings)}
    routes = Router(rooms, labels, settings.max_body_bytes)
    return Snapshot(settings, auth, RequestLimits(limit), routes, targets)


def _route_room(
    route: Route,
    provider: Provider,
    targets: dict[str, tuple[Target, ...]],
    settings: Settings,
    segment: native.Segment,
    worker: int,
) -> RouteRoom:
    breaker = settings.breaker
    selector = native.Selector(
        segment,
        worker,
        route.load_balancer,
        [(segment.upstream(upstream.url), upstream.weight) for upstream in provider.upstreams],
        seed=secrets.randbits(63),
        failure_threshold=0 if breaker is None else breaker.failure_threshold,
        open_ns=0 if breaker is None else int(breaker.open_s * 1e9),
        half_open_max_calls=0 if breaker is None else breaker.half_open_max_calls,
    )
    limit = None
    if route.rate_limit:
        burst = route.rate_burst or max(1, route.rate_limit // 10)
        limit = native.RateLimit(segment, f"route:{route.name}", route.rate_limit, burst)
    return RouteRoom(
        route,
        access="authenticated" if route.auth_required else "open",
        label=segment.intern(route.name),
        provider_label=segment.intern(provider.name),
        limit=limit,
        adapter=OpenAIAdapter(provider),
        balancer=Balancer(selector, targets[provider.name], provider.name),
    )


def _office_rooms(
    settings: Settings, segment: native.Segment, worker: int, pools: dict[str, Pool], office_path: str
) -> list[RouteRoom]:
    """The back office as one more upstream, behind a unix socket."""
    upstream = Upstream(url=f"unix:{office_path}", tls=False, host=office_path, port=0)
    provider = Provider(name=OFFICE, kind="openai", upstreams=(upstream,), keepalive_s=30.0, max_idle=8)
    targets = {OFFICE: targets_of(provider, pools, disclose=settings.disclose)}
    rooms = []
    for path, access, priority in _OFFICE_PATHS:
        route = Route(
            name=OFFICE, path=path, provider=OFFICE, methods=("GET", "HEAD"), priority=priority, auth_required=False
        )
        room = _route_room(route, provider, targets, settings, segment, worker)
        room.access = access
        rooms.append(room)
    return rooms


def _model_names(settings: Settings) -> list[str]:
    """The models that the configuration names: what metrics may use as label values."""
    names: dict[str, None] = {}
    for provider in settings.providers:
        names.update(dict.fromkeys(provider.models))
        names.update(dict.fromkeys(said for said, _ in provider.aliases))
    for route in settings.routes:
        names.update(dict.fromkeys(model for model in route.models if "*" not in model and "?" not in model))
    return list(names)


def _authority(upstream: Upstream) -> str:
    """The Host line's value."""
    if upstream.host.startswith("/"):
        return "budgateway"
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    return host if upstream.port == (443 if upstream.tls else 80) else f"{host}:{upstream.port}"


class DataPlane:
    """What one process serves: a front door, the relay behind it, the sweep, the access log."""

    def __init__(self, settings: Settings, segment: native.Segment, worker: int, office_path: str) -> None:
        """Build everything that needs no loop running. OSError when the access log cannot be opened."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._segment = segment
        self._worker = worker
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self.pools: dict[str, Pool] = {}
        self.snapshot = build_snapshot(settings, segment, worker, self.pools, office_path)
        access = None if settings.access_log == "off" else native.AccessLog(segment, 4 << 20)
        self._access = None if access is None else AccessWriter(access, settings.access_log, loop)
        recorder = Recorder(
            native.Metrics(segment),
            access,
            time.time_ns() - time.monotonic_ns(),
            FLUSH_BYTES,
            None if self._access is None else self._access.flush,
        )
        self.relay = Relay(recorder, self.spawn, id_prefix=secrets.token_hex(6) + f"{worker:02x}")
        self.relay.snapshot = self.snapshot
        self.door = Door(
            self.relay,
            loop.call_soon,
            keepalive_ns=int(settings.keepalive_s * 1e9),
            head_timeout_ns=int(settings.head_timeout_s * 1e9),
            max_body_bytes=settings.max_body_bytes,
            max_connections=settings.max_connections,
        )
        self._sweep_timer = loop.call_later(SWEEP_S, self._sweep)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task and keep it alive; what it raises is logged, not lost."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed", exc_info=error)

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections from a bound socket."""
        server = await self._loop.create_server(
            self.door.connect, sock=sock, backlog=BACKLOG, ssl=server_tls(self.snapshot.settings)
        )
        self._servers.append(server)

    async def drain(self, seconds: float) -> None:
        """Stop accepting and keep-alive, and wait for exchanges in flight, `seconds` at most."""
        for server in self._servers:
            server.close()
        self.door.drain()
        deadline = self._loop.time() + seconds
        while self.relay.in_flight and self._loop.time() < deadline:  # noqa: ASYNC110 - at shutdown, and only then
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Drop what is left, write the rest of the access log. Idempotent."""
        self._sweep_timer.cancel()
        for server in self._servers:
            server.close()
        for connection in tuple(self.door.connections):
            connection.abort()
        for pool in self.pools.values():
            pool.close()
        # One turn of the loop, so that every connection hears of its end and releases what its exchange held.
        await asyncio.sleep(0)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._access is not None:
            await self._access.close()
            self._access = None
        self._publish()

    def _sweep(self) -> None:
        now_ns = time.monotonic_ns()
        self.door.sweep(now_ns)
        for pool in self.pools.values():
            pool.sweep(now_ns)
        self._publish()
        if self._access is not None:
            self._access.flush()
        self._sweep_timer = self._loop.call_later(SWEEP_S, self._sweep)

    def _publish(self) -> None:
        """Bring this worker's gauges up to date, and its share of the connections that all workers may have."""
        idle = sum(pool.idle_count() for pool in self.pools.values())
        opened = sum(len(pool.open) for pool in self.pools.values())
        for gauge, value in (
            (native.GAUGE_CONNECTIONS, len(self.door.connections)),
            (native.GAUGE_EXCHANGES, self.relay.in_flight),
            (native.GAUGE_POOL_IDLE, idle),
            (native.GAUGE_POOL_BUSY, opened - idle),
        ):
            self._segment.add(self._worker, gauge, value - self._segment.gauge(self._worker, gauge))
        others = sum(
            self._segment.gauge(worker, native.GAUGE_CONNECTIONS)
            for worker in range(self._segment.workers)
            if worker != self._worker
        )
        self.door.max_connections = max(0, self.snapshot.settings.max_connections - others)


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """The listener's TLS context, or None for plain HTTP."""
    if settings.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls.cert_file, settings.tls.key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def bound_socket(host: str, port: int) -> socket.socket:
    """A TCP socket bound with SO_REUSEPORT, so that every worker has a queue of its own."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def settle_memory() -> None:
    """After start-up: what lives for ever leaves the collector's sight, and collections become rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
