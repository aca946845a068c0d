"""Wires the rooms: one configuration becomes a Snapshot, without side effects but names interned in the segment."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

from budgateway import native
from budgateway.auth.authenticator_cy import Authenticator, CredentialAuthenticator
from budgateway.auth.bearer import Bearers
from budgateway.auth.roles import Roles
from budgateway.auth.vault import Vault
from budgateway.balance.attempts_cy import Attempts
from budgateway.balance.balancer_cy import Balancer
from budgateway.balance.mirror import MirrorCounts, Mirroring
from budgateway.balance.queue import Queues
from budgateway.limits.across import Across
from budgateway.limits.rules import Rulebook
from budgateway.limits.stage_cy import Limits
from budgateway.limits.waiting import WaitingRoom
from budgateway.pipeline_cy import Snapshot
from budgateway.providers.adapter_cy import OpenAIAdapter
from budgateway.records import OWN_ISSUER, Issuer, Provider, ProviderKind, Route, Settings, Upstream
from budgateway.routing.cors import CrossOrigins
from budgateway.routing.own import OFFICE, own_routes
from budgateway.routing.router_cy import Leg, Router, RouteRoom
from budgateway.routing.shape import Shape, split_of
from budgateway.transport.client_cy import Pool, Target
from budgateway.transport.dial import Dialler, client_tls
from budgateway.wire.cors import CrossOrigin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from budgateway.limits.demand import SharedLimits
    from budgateway.transport.resolve import Resolver

# What clients of the big APIs ask for by header: passed on to the kinds of provider that may know it. Not `x-stainless-*`,
# which no API reads: it tells of the client's machine.
_VENDOR = (
    "openai-beta",
    "openai-organization",
    "openai-project",
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
)
VENDOR_HEADERS: Mapping[ProviderKind, tuple[str, ...]] = {"openai": _VENDOR, "litellm": _VENDOR}

# What a pool's connections have in common: URL, how TLS is checked, how long and how many are kept.
PoolKey = tuple[str, bool, str, float, int]
Pools = dict[PoolKey, Pool]


def targets_of(
    provider: Provider,
    pools: Pools,
    warm: Pools | None = None,
    *,
    disclose: bool = False,
    redactor: native.Redactor | None = None,
    resolver: Resolver | None = None,
) -> tuple[Target, ...]:
    """A provider's upstreams as the relay sees them. Pools are shared by what their connections have in common; those of
    an earlier configuration are taken from `warm`, all that are used end up in `pools`. `resolver` is the process's; without
    it they have one of their own."""
    key = provider.api_key
    fixed = [(name, secret.reveal()) for name, secret in provider.headers]
    if key is not None:
        fixed.append(("authorization", f"Bearer {key.reveal()}"))
    forwarded = (*VENDOR_HEADERS.get(provider.kind, ()), *provider.forward_headers)
    secure = any(upstream.tls for upstream in provider.upstreams)
    tls = client_tls(provider.tls_verify, provider.tls_ca or provider.tls_ca_file) if secure else None
    dialler = Dialler(provider.connect_timeout_s, tls, resolver)
    targets = []
    for number, upstream in enumerate(provider.upstreams):
        label = upstream_label(provider, number)
        # What was connected under one idea of TLS must not serve under another.
        shared = (upstream.url, provider.tls_verify, provider.tls_ca_file, provider.keepalive_s, provider.max_idle)
        pool = pools.get(shared) or (warm or {}).get(shared)
        if pool is None:
            pool = Pool(label, keepalive_ns=int(provider.keepalive_s * 1e9), max_idle=provider.max_idle)
        pools[shared] = pool
        writer = native.RequestHeadWriter(_authority(upstream), upstream.path, provider.strip_prefix, forwarded, fixed)
        targets.append(Target(upstream, label, pool, writer, dialler, disclose=disclose, redactor=redactor))
    return tuple(targets)


def secrets_of(settings: Settings) -> list[str]:
    """What no answer may tell a client: the keys that are sent upstream, and those that only the gateway has."""
    found = [settings.jwt_secret, *(issuer.secret for issuer in settings.auth.issuers)]
    if settings.store is not None:
        found += [settings.store.password, settings.store.sentinel_password]
    for provider in settings.providers:
        found.append(provider.api_key)
        found += [value for name, value in provider.headers if _is_credential(name)]
    told = [secret.reveal() for secret in found if secret is not None]
    # Without its scheme a credential is one as well.
    return told + [text.rpartition(" ")[2] for text in told if " " in text]


def _is_credential(name: str) -> bool:
    """Whether a header of this name holds what must not be told."""
    return any(word in name for word in ("auth", "key", "token", "secret", "cookie"))


class Care(TypedDict, total=False):
    """What a selector is told of when to spare an upstream: its keywords. Absent: as if it never failed."""

    failure_threshold: int
    open_ns: int
    half_open_max_calls: int
    failure_ratio: float
    minimum_calls: int
    window_ns: int
    eject_after: int
    eject_ns: int
    eject_max_ns: int
    eject_percent: int
    panic_percent: int
    slow_start_ns: int


def care_of(settings: Settings, provider: Provider) -> Care:
    """The same for every selector of a provider, of whatever process."""
    care: Care = {"panic_percent": settings.panic_percent, "slow_start_ns": int(provider.slow_start_s * 1e9)}
    if (breaker := settings.breaker) is not None:
        care["failure_threshold"] = breaker.failure_threshold
        care["open_ns"] = int(breaker.open_s * 1e9)
        care["half_open_max_calls"] = breaker.half_open_max_calls
        care["failure_ratio"] = breaker.failure_ratio
        care["minimum_calls"] = breaker.minimum_calls
        care["window_ns"] = int(breaker.window_s * 1e9)
    if (outliers := settings.outliers) is not None:
        care["eject_after"] = outliers.consecutive_failures
        care["eject_ns"] = int(outliers.ejection_s * 1e9)
        care["eject_max_ns"] = int(outliers.max_ejection_s * 1e9)
        care["eject_percent"] = outliers.max_percent
    return care


def upstream_keys(settings: Settings) -> dict[tuple[str, str], str]:
    """Under which name the segment knows an upstream, by provider and URL: the URL, so that providers that share one share
    what is known of it. Those that ask it otherwise how it is (another path, another key) may be answered otherwise:
    each way of asking has a name of its own. Who asks nothing hears what the first one is told."""
    names: dict[str, dict[object, str]] = {}
    keys: dict[tuple[str, str], str] = {}
    for provider in settings.providers:
        check = provider.health_check
        for upstream in provider.upstreams:
            name = upstream.url
            if check is not None:
                manner = (check.path, check.statuses, check.body, check.generate_model, provider.tls_verify,
                          provider.tls_ca_file, provider.api_key, provider.headers)  # fmt: skip
                known = names.setdefault(upstream.url, {})
                name = known.setdefault(manner, f"{upstream.url} {provider.name}" if known else upstream.url)
            keys[provider.name, upstream.url] = name
    return keys


def upstream_label(provider: Provider, number: int) -> str:
    """What an upstream is called in headers, logs, errors and the back office."""
    return provider.name if len(provider.upstreams) == 1 else f"{provider.name}/{number}"


def largest_body(settings: Settings) -> int:
    """What the front door lets in: the largest body that any route takes. The route found then has its own say."""
    return max([settings.max_body_bytes, *(route.max_body_bytes for route in settings.routes)])


def build_snapshot(
    settings: Settings,
    segment: native.Segment,
    worker: int,
    pools: Pools,
    office_path: str,
    warm: Pools | None = None,
    queues: Queues | None = None,
    vault: Vault | None = None,
    copies: MirrorCounts | None = None,
    shared: SharedLimits | None = None,
    resolver: Resolver | None = None,
) -> Snapshot:
    """Wire all rooms for one configuration. No side effects but names interned in the segment. `queues` outlive it; without
    them nobody waits for an upstream that is full. So do the `copies` that are counted. `shared` are the limits of all hosts."""
    providers = {provider.name: provider for provider in settings.providers}
    disclose = settings.disclose
    secrets_told = secrets_of(settings)
    redactor = native.Redactor(secrets_told) if secrets_told else None
    targets = {
        name: targets_of(provider, pools, warm, disclose=disclose, redactor=redactor, resolver=resolver)
        for name, provider in providers.items()
    }
    book = Rulebook(settings, segment, worker)
    keys = upstream_keys(settings)
    rooms = [
        _route_room(route, providers, targets, settings, keys, segment, worker, queues) for route in settings.routes
    ]
    for room in rooms:
        room.limits = book.of_route(room.record)
        mirror = room.record.mirror
        if mirror is not None:
            # No connection of a copy is ever another's: what goes wrong with it stays with it.
            shadow = replace(providers[mirror.provider], max_idle=0)
            copied = targets_of(shadow, pools, warm, resolver=resolver)
            leg = _leg(room.record, shadow, copied, settings, keys, segment, worker, None)
            room.mirror = Mirroring(mirror, leg, copies or MirrorCounts(), secrets.randbits(63))
    office = _office_rooms(settings, segment, worker, pools, office_path, warm)
    for room in office:
        room.limits = book.of_own(room.access)
    own_from = len(rooms)
    rooms += office
    auth = _authenticator(settings, vault or Vault())
    labels = {name: segment.intern(name) for name in _model_names(settings)}
    routes = Router(rooms, labels, largest_body(settings), own_from)
    limits = _limits(settings, book, shared)
    limits.own = {room.record.path: room.limits for room in office if room.limits.is_own}
    common = None if settings.cors is None else CrossOrigin(settings.cors)
    origins = CrossOrigins(routes.table, [room.cors for room in routes.rooms], common)
    return Snapshot(settings, auth, limits, routes, targets, origins)


def _limits(settings: Settings, book: Rulebook, shared: SharedLimits | None) -> Limits:
    how = settings.limits
    waiting = WaitingRoom(book, how.queue_size, how.queue_timeout_s) if how.queue_size else None
    across = None
    if shared is not None:
        across = Across(shared, book, queue_size=how.queue_size, queue_timeout_s=how.queue_timeout_s)
    return Limits(book, book.strays(), book.of_preflights(), waiting, across)


def _authenticator(settings: Settings, vault: Vault) -> Authenticator:
    """Who checks credentials; without a way to check any, who says so."""
    issuers = issuers_of(settings)
    if not issuers and not settings.auth.keys_file and not settings.auth.keys_in_redis:
        return Authenticator()
    lists_openly = any(not route.auth_required for route in settings.routes)
    return CredentialAuthenticator(Bearers(issuers), vault, Roles(settings.auth), lists_openly)


def issuers_of(settings: Settings) -> tuple[Issuer, ...]:
    """Everybody whose tokens are believed, the gateway itself (JWT_SECRET) among them."""
    if settings.jwt_secret is None:
        return settings.auth.issuers
    own = Issuer(OWN_ISSUER, "", ("HS256",), secret=settings.jwt_secret, leeway_s=settings.auth.leeway_s)
    return (own, *settings.auth.issuers)


def _route_room(
    route: Route,
    providers: dict[str, Provider],
    targets: dict[str, tuple[Target, ...]],
    settings: Settings,
    keys: Mapping[tuple[str, str], str],
    segment: native.Segment,
    worker: int,
    queues: Queues | None = None,
) -> RouteRoom:
    fallbacks = [
        _leg(route, providers[one.provider], targets[one.provider], settings, keys, segment, worker, queues, one.model)
        for one in route.retries.fallbacks
    ]
    legs = [
        _leg(route, providers[name], targets[name], settings, keys, segment, worker, queues)
        for name in route.answerers()
    ]
    return RouteRoom(
        route,
        access="authenticated" if route.auth_required else "open",
        label=segment.intern(route.name),
        legs=legs,
        shape=Shape(route, legs, split_of(route, secrets.randbits(63))) if Shape.is_needed(route) else None,
        fallbacks=fallbacks,
        attempts=Attempts(route.retries, fallbacks),
        cors=None if route.cors is None else CrossOrigin(route.cors),
    )


def _leg(
    route: Route,
    provider: Provider,
    targets: tuple[Target, ...],
    settings: Settings,
    keys: Mapping[tuple[str, str], str],
    segment: native.Segment,
    worker: int,
    queues: Queues | None,
    model: str = "",
) -> Leg:
    """One provider behind a route; `model` is what its upstreams are told, whatever the client says."""
    selector = native.Selector(
        segment,
        worker,
        route.load_balancer,
        [(segment.upstream(keys[provider.name, upstream.url]), upstream.weight) for upstream in provider.upstreams],
        seed=secrets.randbits(63),
        **care_of(settings, provider),
        max_in_flight=[upstream.max_in_flight for upstream in provider.upstreams],
    )
    queue = None if queues is None else queues.of(provider)
    label = segment.intern(provider.name)
    return Leg(
        OpenAIAdapter(provider, model),
        Balancer(
            selector,
            targets,
            provider.name,
            queue,
            _pins(provider) if route.pin_by else None,
            (lambda _: model) if model else provider.upstream_model,
        ),
        provider.name,
        label,
        budget=native.RetryBudget(segment, label, settings.retry_limit.percent, settings.retry_limit.reserve),
        hold_bytes=provider.hold_bytes,
        first_event_s=provider.first_event_s,
    )


def _pins(provider: Provider) -> native.Rendezvous:
    """Who of a provider's upstreams a pin goes to. A selector can leave out 64."""
    return native.Rendezvous([(upstream.url, upstream.weight) for upstream in provider.upstreams[:64]])


def _office_rooms(
    settings: Settings,
    segment: native.Segment,
    worker: int,
    pools: Pools,
    office_path: str,
    warm: Pools | None,
) -> list[RouteRoom]:
    """The back office as one more upstream, behind a unix socket; it answers whatever its last answers were."""
    settings = replace(settings, breaker=None, outliers=None)
    upstream = Upstream(url=f"unix:{office_path}", tls=False, host=office_path, port=0)
    provider = Provider(name=OFFICE, kind="openai", upstreams=(upstream,), keepalive_s=30.0, max_idle=8, hold_bytes=0)
    targets = {OFFICE: targets_of(provider, pools, warm, disclose=settings.disclose)}
    keys = {(OFFICE, upstream.url): upstream.url}
    rooms = []
    for route, access in own_routes(settings.routes, settings.cors):
        room = _route_room(route, {OFFICE: provider}, targets, settings, keys, segment, worker)
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
