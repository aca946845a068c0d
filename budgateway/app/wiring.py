"""The composition root: builds a Snapshot from one configuration; its only side effect is names in the segment."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

from budgateway import native
from budgateway.auth.authenticator_cy import Authenticator, CredentialAuthenticator
from budgateway.auth.bearer import Bearers
from budgateway.auth.credential_store import CredentialStore
from budgateway.auth.roles import Roles
from budgateway.balance.attempts_cy import Attempts
from budgateway.balance.balancer_cy import Balancer
from budgateway.balance.mirror import MirrorCounts, Mirroring
from budgateway.balance.queue import Queues
from budgateway.kinds import KINDS
from budgateway.limits.global_limits import GlobalLimits
from budgateway.limits.lease_queue import LeaseQueue
from budgateway.limits.rules import Rulebook
from budgateway.limits.stage_cy import Limits
from budgateway.providers.registry import adapters_of, spoken_dialects
from budgateway.proxy.pipeline_cy import Snapshot
from budgateway.proxy.relay_cy import DESCRIBING
from budgateway.records import OWN_ISSUER, Issuer, Provider, Route, Settings, Upstream
from budgateway.routing.builtin import OWN_PROVIDER, own_routes
from budgateway.routing.cors import CrossOrigins
from budgateway.routing.router_cy import CompiledRoute, Destination, Router
from budgateway.routing.shape import Shape, split_of
from budgateway.stored.stage import StoredObjects, stage_of
from budgateway.system.pem import trusting
from budgateway.system.slices import at_once
from budgateway.transform import stages as transforms
from budgateway.transport.client_cy import Pool, Target
from budgateway.transport.dial import Dialler
from budgateway.wire.cors import CrossOrigin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from budgateway.limits.demand import SharedLimits
    from budgateway.proxy.pipeline_cy import Stage
    from budgateway.transport.resolve import Resolver

# The stages that only some routes have, in the order in which they decide: after the limits, before the choice of an
# upstream. Each line makes a route's stage in one worker, or returns None for a route without it.
STAGES: tuple[Callable[[Route], Stage | None], ...] = ()

# What a pool's connections have in common: URL, TLS verification, keep-alive time, number of idle connections.
PoolKey = tuple[str, bool, str, float, int]
Pools = dict[PoolKey, Pool]
TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
PINNED = 64  # upstreams of a provider among which pins are distributed


def targets_of(
    provider: Provider,
    pools: Pools,
    warm: Pools | None = None,
    *,
    disclose: bool = False,
    redactor: native.Redactor | None = None,
    resolver: Resolver | None = None,
) -> tuple[Target, ...]:
    """Return a provider's upstreams for the relay. Targets with the same connection settings share a pool; pools of an
    earlier configuration are taken from `warm`, and all pools in use are added to `pools`. `resolver` is the process's;
    without it the upstreams get one of their own."""
    kind = KINDS[provider.kind]
    key = provider.api_key
    fixed = [(name, secret.reveal()) for name, secret in provider.headers]
    fixed += [(name, value) for name, value in kind.headers if name not in dict(provider.headers)]
    if key is not None:
        fixed.append((kind.key_header, kind.key_prefix + key.reveal()))
    forwarded = (*kind.vendor_headers, *provider.forward_headers)
    without = () if provider.forward_trace else TRACE_HEADERS
    secure = any(upstream.tls for upstream in provider.upstreams)
    tls = trusting(provider.tls_ca or provider.tls_ca_file, verify=provider.tls_verify) if secure else None
    dialler = Dialler(provider.connect_timeout_s, tls, resolver)
    targets = []
    for number, upstream in enumerate(provider.upstreams):
        label = provider.upstream_label(number)
        # A connection made under one TLS configuration must not serve under another.
        shared = (upstream.url, provider.tls_verify, provider.tls_ca_file, provider.keepalive_s, provider.max_idle)
        pool = pools.get(shared) or (warm or {}).get(shared)
        if pool is None:
            pool = Pool(keepalive_ns=int(provider.keepalive_s * 1e9), max_idle=provider.max_idle)
        pools[shared] = pool
        writer = native.RequestHeadWriter(
            _authority(upstream), upstream.path, provider.strip_prefix, forwarded, fixed, without
        )
        targets.append(Target(upstream, label, pool, writer, dialler, disclose=disclose, redactor=redactor))
    return tuple(targets)


def secrets_of(settings: Settings) -> list[str]:
    """Return the secrets that no answer may show a client: keys sent upstream, and the gateway's own."""
    found = [settings.jwt_secret, *(issuer.secret for issuer in settings.auth.issuers)]
    if settings.store is not None:
        found += [settings.store.password, settings.store.sentinel_password]
    for provider in settings.providers:
        found.append(provider.api_key)
        found += [value for name, value in provider.headers if _is_credential(name)]
    told = [secret.reveal() for secret in found if secret is not None]
    # A credential without its scheme is a secret, too.
    return told + [text.rpartition(" ")[2] for text in told if " " in text]


def _is_credential(name: str) -> bool:
    """Return whether a header of this name holds a secret."""
    return any(word in name for word in ("auth", "key", "token", "secret", "cookie"))


class Care(TypedDict, total=False):
    """A selector's keyword arguments for failing upstreams. Without breaker or ejection keywords, that check is off."""

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
    """Return a provider's failure handling: the same for its selectors in every process."""
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
    """Return the segment's name for each upstream, by provider and URL.

    The name is the URL, so that providers with the same URL share its health. Providers with different health checks
    (another path, another key) may see different health: each kind of check has a name of its own. Providers without a
    health check share the first provider's health.
    """
    return at_once(naming_upstreams(settings))


def naming_upstreams(settings: Settings) -> Generator[None, None, dict[tuple[str, str], str]]:
    """Find the names of `upstream_keys`, one provider in a step."""
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
        yield
    return keys


def largest_body(settings: Settings) -> int:
    """Return the largest body that any route accepts, the limit before routing. The route found then applies its
    own."""
    return max([settings.max_body_bytes, *(route.max_body_bytes for route in settings.routes)])


class Builder:
    """Builds what serves one configuration. No side effects but names interned in the segment, and pools in `pools`."""

    def __init__(
        self,
        settings: Settings,
        segment: native.Segment,
        worker: int,
        pools: Pools,
        *,
        warm: Pools | None = None,
        queues: Queues | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        """`warm` are the pools of the former configuration. `queues` outlive it; without them no exchange waits for an
        upstream that is full."""
        self.settings = settings
        self._segment = segment
        self._worker = worker
        self._pools = pools
        self._warm = warm
        self._queues = queues
        self._resolver = resolver
        self._providers = {provider.name: provider for provider in settings.providers}
        self._keys: dict[tuple[str, str], str] = {}

    def snapshot(
        self,
        admin_path: str,
        *,
        credential_store: CredentialStore | None = None,
        copies: MirrorCounts | None = None,
        shared: SharedLimits | None = None,
    ) -> Generator[None, None, Snapshot]:
        """Build the compiled routes and stages, one of them in a step. `copies` outlive them; `shared` are the limits
        shared by all hosts."""
        settings = self.settings
        self._keys = yield from naming_upstreams(settings)
        told = secrets_of(settings)
        targets = yield from self._targets(native.Redactor(told) if told else None)
        book = Rulebook(settings, self._segment, self._worker)
        compiled_routes = []
        for route in settings.routes:
            yield
            compiled = self._route(route, targets)
            compiled.limits = book.of_route(route)
            compiled.mirror = self._mirror(route, copies)
            compiled.transforms = transforms.of_route(settings.transforms, route)
            made = (self._stored_objects(compiled), *(make(route) for make in STAGES))
            compiled.stages = tuple(stage for stage in made if stage is not None)
            compiled_routes.append(compiled)
        yield
        admin = yield from self._admin_routes(admin_path)
        for compiled in admin:
            compiled.limits = book.of_own(compiled.access)
        yield
        labels: dict[str, int] = {}
        for name in _model_names(settings):
            if name not in labels:
                labels[name] = self._segment.intern_model(name)
            yield
        routes = Router([*compiled_routes, *admin], labels, largest_body(settings), len(compiled_routes))
        routes.learn(dict(self._segment.models()))
        yield
        limits = _limits(settings, book, shared)
        limits.own = {compiled.record.path: compiled.limits for compiled in admin if compiled.limits.is_own}
        common = None if settings.cors is None else CrossOrigin(settings.cors)
        origins = CrossOrigins(routes.table, [compiled.cors for compiled in routes.compiled_routes], common)
        return Snapshot(
            settings, _authenticator(settings, credential_store or CredentialStore()), limits, routes, targets, origins
        )

    def _targets(self, redactor: native.Redactor | None) -> Generator[None, None, dict[str, tuple[Target, ...]]]:
        """Build each provider's targets, by its name."""
        targets = {}
        for name, provider in self._providers.items():
            yield
            targets[name] = targets_of(
                provider,
                self._pools,
                self._warm,
                disclose=self.settings.disclose,
                redactor=redactor,
                resolver=self._resolver,
            )
        return targets

    def _route(self, route: Route, targets: dict[str, tuple[Target, ...]]) -> CompiledRoute:
        def destination(name: str, model: str = "") -> Destination:
            return self._destination(route, self._providers[name], targets[name], self._queues, model)

        fallbacks = [destination(fallback.provider, fallback.model) for fallback in route.retries.fallbacks]
        destinations = [destination(name) for name in route.answerers()]
        return CompiledRoute(
            route,
            access="authenticated" if route.auth_required else "open",
            label=self._segment.intern(route.name),
            destinations=destinations,
            shape=Shape(route, destinations, split_of(route, secrets.randbits(63))) if Shape.is_needed(route) else None,
            fallbacks=fallbacks,
            attempts=Attempts(route.retries, fallbacks),
            cors=None if route.cors is None else CrossOrigin(route.cors),
        )

    def _mirror(self, route: Route, copies: MirrorCounts | None) -> Mirroring | None:
        """Return what copies the requests of a route. Copies use connections of their own, so that their failures stay
        with them, and never wait."""
        mirror = route.mirror
        if mirror is None:
            return None
        provider = replace(self._providers[mirror.provider], max_idle=0)
        targets = targets_of(provider, self._pools, self._warm, resolver=self._resolver)
        destination = self._destination(route, provider, targets, queues=None)
        return Mirroring(mirror, destination, copies or MirrorCounts(), secrets.randbits(63))

    def _destination(
        self, route: Route, provider: Provider, targets: tuple[Target, ...], queues: Queues | None, model: str = ""
    ) -> Destination:
        """Build one provider behind a route. `model`, if set, replaces the client's model in requests to its
        upstreams."""
        label = self._segment.intern(provider.name)
        limit = self.settings.retry_limit
        return Destination(
            adapters_of(provider, KINDS[provider.kind], model),
            Balancer(
                self._selector(route, provider),
                targets,
                provider.name,
                None if queues is None else queues.of(provider),
                (lambda _: model) if model else provider.upstream_model,
            ),
            provider.name,
            label,
            budget=native.RetryBudget(self._segment, label, limit.percent, limit.reserve),
            hold_bytes=provider.hold_bytes,
            first_event_s=provider.first_event_s,
            transforms=transforms.of_provider(
                self.settings.transforms,
                route,
                provider,
                spoken_dialects(provider, KINDS[provider.kind]),
                DESCRIBING,
                name_of=(lambda _: model) if model else provider.upstream_model,
            ),
        )

    def _stored_objects(self, compiled: CompiledRoute) -> StoredObjects | None:
        """Return the stage that finds the upstreams of stored objects; None for a route with one upstream."""
        destinations = [
            (destination, [self._slot(destination.provider, upstream) for upstream in self._providers[destination.provider].upstreams])
            for destination in (*compiled.destinations, *compiled.fallbacks)
        ]  # fmt: skip
        return stage_of(self._segment, destinations)

    def _slot(self, provider: str, upstream: Upstream) -> int:
        return self._segment.upstream(self._keys[provider, upstream.url])

    def _selector(self, route: Route, provider: Provider) -> native.Selector:
        key = self._keys
        upstreams = provider.upstreams
        return native.Selector(
            self._segment,
            self._worker,
            route.load_balancer,
            [(self._segment.upstream(key[provider.name, upstream.url]), upstream.weight) for upstream in upstreams],
            seed=secrets.randbits(63),
            **care_of(self.settings, provider),
            max_in_flight=[upstream.max_in_flight for upstream in upstreams],
            pins=[upstream.url for upstream in upstreams[:PINNED]] if route.pin_by else None,
        )

    def _admin_routes(self, path: str) -> Generator[None, None, list[CompiledRoute]]:
        """Build the admin routes: the admin server is one more upstream, behind a unix socket, without breaker and
        outlier detection, queue and redaction."""
        upstream = Upstream(url=f"unix:{path}", tls=False, host=path, port=0)
        server = Provider(
            name=OWN_PROVIDER, kind="openai", upstreams=(upstream,), keepalive_s=30.0, max_idle=8, hold_bytes=0
        )
        settings = replace(self.settings, breaker=None, outliers=None, providers=(server,))
        builder = Builder(settings, self._segment, self._worker, self._pools, warm=self._warm)
        builder._keys = upstream_keys(settings)
        targets = yield from builder._targets(redactor=None)
        compiled_routes = []
        for route, access in own_routes(settings.routes, settings.cors):
            yield
            compiled = builder._route(route, targets)
            compiled.access = access
            compiled_routes.append(compiled)
        return compiled_routes


def _limits(settings: Settings, book: Rulebook, shared: SharedLimits | None) -> Limits:
    how = settings.limits
    waiting = LeaseQueue(book, how.queue_size, how.queue_timeout_s) if how.queue_size else None
    global_limits = None
    if shared is not None:
        global_limits = GlobalLimits(shared, book, queue_size=how.queue_size, queue_timeout_s=how.queue_timeout_s)
    return Limits(book, book.unrouted(), book.of_preflights(), waiting, global_limits)


def _authenticator(settings: Settings, credential_store: CredentialStore) -> Authenticator:
    """Return the authenticator; without issuers and API keys, one that rejects every credential."""
    issuers = issuers_of(settings)
    if not issuers and not settings.auth.keys_file and not settings.auth.keys_in_redis:
        return Authenticator()
    lists_openly = any(not route.auth_required for route in settings.routes)
    roles = Roles(settings.auth, [tenant for rule in settings.limit_rules for tenant in rule.tenants])
    return CredentialAuthenticator(Bearers(issuers), credential_store, roles, lists_openly, workers=settings.workers)


def issuers_of(settings: Settings) -> tuple[Issuer, ...]:
    """Return all accepted token issuers, including the gateway itself (JWT_SECRET)."""
    if settings.jwt_secret is None:
        return settings.auth.issuers
    own = Issuer(OWN_ISSUER, "", ("HS256",), secret=settings.jwt_secret, leeway_s=settings.auth.leeway_s)
    return (own, *settings.auth.issuers)


def _model_names(settings: Settings) -> Iterator[str]:
    """Yield the models that the configuration names, which metrics may use as label values; some more than once."""
    for provider in settings.providers:
        yield from provider.models
        yield from provider.named_aliases
    for route in settings.routes:
        yield from filter(_is_exact, route.models)
    # Not those of the prices' package, which knows thousands.
    yield from (price.model for price in settings.prices if not price.provider and _is_exact(price.model))


def _is_exact(model: str) -> bool:
    return "*" not in model and "?" not in model


def _authority(upstream: Upstream) -> str:
    """Return the value of the Host header."""
    if upstream.host.startswith("/"):
        return "budgateway"
    host = f"[{upstream.host}]" if ":" in upstream.host else upstream.host
    return host if upstream.port == (443 if upstream.tls else 80) else f"{host}:{upstream.port}"
