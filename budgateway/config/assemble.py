"""Assembly of Settings: the tables of one configuration, checked one by one and against each other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from budgateway import native
from budgateway.config import environment, resolve_limits
from budgateway.config.endpoint import is_loopback
from budgateway.config.problems import Problems, did_you_mean, shown, spelled, without
from budgateway.config.resolve import Resolver, cores, is_compressed, methods_of
from budgateway.config.resolve_auth import AuthResolver, authenticates
from budgateway.config.resolve_cors import cors_of
from budgateway.config.resolve_health import breaker_of, outliers_of
from budgateway.config.resolve_redis import store_settings
from budgateway.config.resolve_shaping import leading, named
from budgateway.config.resolve_tracing import tracing_of
from budgateway.config.resolve_transforms import TransformResolver, check_number, drop_rules
from budgateway.config.schema import (
    TABLES,
    CacheConfig,
    GatewayConfig,
    MetricsConfig,
    ProviderConfig,
    RouteConfig,
    TlsConfig,
)
from budgateway.config.schema_attempts import RetriesConfig
from budgateway.config.schema_auth import AuthConfig
from budgateway.config.schema_cors import CorsConfig
from budgateway.config.schema_health import CircuitBreakerConfig, OutlierEjectionConfig
from budgateway.config.schema_limits import PricesConfig, RateLimitingConfig
from budgateway.config.schema_redis import RedisConfig
from budgateway.config.schema_tracing import TracingConfig
from budgateway.config.schema_transforms import TransformConfig
from budgateway.config.source import KeyPath, Source
from budgateway.config.types import Table
from budgateway.errors import ConfigError
from budgateway.records import (
    LimitRule,
    LimitSettings,
    ModelPrice,
    Provider,
    RetryLimit,
    Route,
    Settings,
    StoreSettings,
    TransformRule,
)

HINT = "docs/configuration.md has every key; `budgateway schema` prints a JSON Schema for editors"
NO_AUTHENTICATOR = (
    "nothing can authenticate a client: set JWT_SECRET (at least 32 bytes), [[auth.issuers]] or [auth] keys_file, "
    "or write `auth_required = false` where anyone may use the route"
)

AnyTable = TypeVar("AnyTable", bound=Table)


def settings_from(source: Source, environ: Mapping[str, str]) -> Settings:
    """Apply the environment to the tables, check everything, build the records.

    Raises ConfigError with every problem. Reads the files of secrets and certificates.
    """
    environment.apply(source, environ)
    return _Assembly(source, environ).settings()


class _Assembly:
    """One run over one source."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._problems = Problems(source.places, source.variables)
        self._problems.lines.extend(source.problems)
        self._notices = list(source.notices)
        self._partial: set[KeyPath] = set()  # tables of which some part is wrong
        self._resolve = Resolver(self._problems, environ, source)

    def settings(self) -> Settings:
        """Return the records, or raise ConfigError."""
        for name in self._source.tables:
            if name not in TABLES:
                self._problems.add((name,), f"unknown table{did_you_mean(name, TABLES)}")
        gateway = self._table(("gateway",), GatewayConfig) or GatewayConfig()
        auth = self._table(("auth",), AuthConfig) or AuthConfig()
        metrics = self._table(("metrics",), MetricsConfig) or MetricsConfig()
        tls = self._table(("tls",), TlsConfig)
        limiting = self._table(("rate_limiting",), RateLimitingConfig)
        priced = self._table(("prices",), PricesConfig)
        breaker = self._table(("circuit_breaker",), CircuitBreakerConfig)
        retries = self._table(("retries",), RetriesConfig) or RetriesConfig()
        ejection = self._table(("outlier_ejection",), OutlierEjectionConfig) or OutlierEjectionConfig()
        if metrics.enabled and metrics.port == gateway.port != 0:
            written = "metrics" in self._source.tables
            path: KeyPath = ("metrics", "port") if written else ("gateway", "port")
            self._problems.add(path, f"{gateway.port} is the port of {'the gateway' if written else '[metrics]'}")
        access_log = self._resolve.access_log(gateway.access_log)
        certificate = self._resolve.tls(tls.cert_file, tls.key_file) if tls else None
        tracing = tracing_of(self._resolve, self._table(("tracing",), TracingConfig), self._environ)
        secret = self._resolve.jwt_secret(auth.jwt_secret)
        self._resolve.burst = limiting.burst_capacity if limiting is not None and limiting.enabled else None
        self._resolve.cors = self._table(("cors",), CorsConfig)
        cors = cors_of(("cors",), self._resolve.cors, self._problems)
        tables, providers, routes = self._providers_and_routes(gateway, authenticates=authenticates(auth))
        how_limited = resolve_limits.settings(limiting, self._problems, self._source.folder_of)
        overall = resolve_limits.overall(limiting, self._problems)
        rules = resolve_limits.rules(limiting, routes, self._problems)
        prices = resolve_limits.prices(priced, providers)
        self._note_budgets(rules, prices, how_limited)
        transforms = (*drop_rules(tables, providers), *self._transforms(providers, routes))
        host = self._host(gateway, providers, routes)
        workers = gateway.workers or cores()
        store = self._store(workers)
        believed = AuthResolver(self._resolve, routes).auth(auth, has_store=store is not None)
        if self._problems.lines:
            raise ConfigError(self._problems.lines, hint=HINT, files=self._source.stamps.items())
        return Settings(
            host=host,
            port=gateway.port,
            workers=workers,
            cpu_affinity=gateway.cpu_affinity,
            spare_worker=gateway.spare_worker,
            worker_timeout_s=gateway.worker_timeout,
            tls=certificate,
            max_connections=gateway.max_connections,
            keepalive_s=gateway.keepalive_timeout,
            head_timeout_s=gateway.head_timeout,
            max_body_bytes=gateway.max_body_size,
            drain_s=gateway.drain_timeout,
            settle_s=gateway.drain_settle,
            watch=gateway.watch,
            disclose=gateway.disclose,
            trusted_proxies=tuple(gateway.trusted_proxies),
            log_level=gateway.log_level,
            access_log=access_log,
            metrics_enabled=metrics.enabled,
            metrics_host=metrics.host,
            metrics_port=metrics.port,
            tracing=tracing,
            rate_limit=overall,
            limit_rules=rules,
            limits=how_limited,
            prices=prices,
            breaker=breaker_of(breaker),
            retry_limit=RetryLimit(retries.percent, retries.reserve),
            outliers=outliers_of(ejection),
            panic_percent=ejection.panic_threshold,
            store=store,
            jwt_secret=secret,
            jwt_expiration_s=auth.jwt_expiration,
            auth=believed,
            cors=cors,
            providers=tuple(providers),
            routes=tuple(routes),
            transforms=transforms,
            notices=tuple(self._notices),
            sources=(*self._source.files, *dict.fromkeys(self._source.used)),
            files=tuple(self._source.stamps.items()),
            origins=tuple((spelled(path), place) for path, place in self._source.origins().items()),
        )

    def _table(self, path: KeyPath, model: type[AnyTable]) -> AnyTable | None:
        """Return the validated table of a section; None when it is absent, or invalid and noted."""
        name = str(path[0])
        return self._validated(path, model, self._source.tables[name]) if name in self._source.tables else None

    def _validated(self, path: KeyPath, model: type[AnyTable], value: object) -> AnyTable | None:
        """Validate a table. Wrong parts are noted, and the rest is returned to be checked against other tables; None
        when nothing valid is left."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            wrong = self._problems.add_invalid(path, model, error)
        self._partial.add(path)
        rest = without(value, wrong)
        try:
            return model.model_validate(rest)
        except ValidationError as error:
            # A required key was wrong and has been removed: leave out the table that needs it.
            rest = without(rest, [detail["loc"][:-1] for detail in error.errors(include_url=False)])
        try:
            return model.model_validate(rest)
        except ValidationError:
            return None

    # ------------------------------------------------------------ providers and routes

    def _providers_and_routes(
        self, gateway: GatewayConfig, *, authenticates: bool
    ) -> tuple[dict[str, ProviderConfig], list[Provider], list[Route]]:
        """Return the valid providers, as tables and as records, and the routes; each is checked against the other."""
        raw_providers = self._source.tables.get("providers", {})
        raw_routes = self._source.tables.get("routes", [])
        if not isinstance(raw_providers, dict):
            self._problems.add(("providers",), f"must be tables [providers.NAME], got {shown(raw_providers)}")
            raw_providers = {}
        if not isinstance(raw_routes, list):
            self._problems.add(("routes",), f"must be tables [[routes]], got {shown(raw_routes)}")
            raw_routes = []
        elif not raw_routes and not self._source.incomplete:
            where = self._source.default_file("routes.toml")
            left = self._source.left_beside()
            whole = (
                f"; {' and '.join(left)} next to it: name the folder, {self._source.folder}, to read all"
                if left
                else ""
            )
            self._problems.lines.append(f"{where}: no [[routes]]: the gateway would answer nothing{whole}")

        tables: dict[str, ProviderConfig] = {}
        for name, value in raw_providers.items():
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", str(name)):
                self._problems.add(("providers", name), "a provider's name is 1 to 64 letters, digits, '-', '_' or '.'")
            elif (provider := self._validated(("providers", name), ProviderConfig, value)) is not None:
                tables[name] = provider
        entries: dict[int, RouteConfig] = {}
        for index, value in enumerate(raw_routes):
            if (route := self._validated(("routes", index), RouteConfig, value)) is not None:
                entries[index] = route
            elif isinstance(value, dict) and isinstance(value.get("provider"), str):
                self._check_provider(index, value["provider"], list(raw_providers))

        self._check_routes(entries, list(raw_providers))
        self._note_what_waits(entries)
        if not authenticates:
            self._demand_authenticator(entries)
        names = self._names(entries)
        routes = [
            self._resolve.route(index, names[index], entry, gateway, tables.get(leading(entry)))
            for index, entry in entries.items()
        ]
        leading_to = _by_provider(routes)
        providers: list[Provider] = []
        for name, table in tables.items():
            patterns = [pattern for route in leading_to.get(name, ()) for pattern in route.models]
            providers.append(self._resolve.provider(name, table, gateway, patterns))
            if len(entries) == len(raw_routes) and name not in leading_to:
                self._notices.append(f"provider {shown(name)} has no route")
            if "stream_usage" in table.model_fields_set and table.stream_usage and is_compressed(table):
                self._notices.append(
                    f"stream_usage of {shown(name)} has no effect: accept-encoding goes to its upstreams"
                )
        return tables, providers, routes

    def _transforms(self, providers: Sequence[Provider], routes: Sequence[Route]) -> tuple[TransformRule, ...]:
        """Return the transformation rules."""
        raw = self._source.tables.get("transforms", [])
        if not isinstance(raw, list):
            self._problems.add(("transforms",), f"must be tables [[transforms]], got {shown(raw)}")
            return ()
        tables: dict[int, TransformConfig] = {}
        for index, value in enumerate(raw):
            if (table := self._validated(("transforms", index), TransformConfig, value)) is not None:
                tables[index] = table
        resolver = TransformResolver(self._resolve, routes, [provider.name for provider in providers])
        rules = resolver.rules(tables)
        if problem := check_number(rules, routes):
            self._problems.add(("transforms",), problem)
        self._notices.extend(resolver.notices)
        return rules

    def _check_routes(self, entries: Mapping[int, RouteConfig], providers: Sequence[str]) -> None:
        """Check that each route's provider exists, its patterns are valid, and no earlier route hides it."""
        seen: dict[tuple[object, ...], int] = {}
        for index, entry in entries.items():
            here: KeyPath = ("routes", index)
            for where, name in named(entry).items():
                self._check_provider(index, name, providers, where)
            rule = (
                (entry.host or "").lower(),
                entry.path,
                methods_of(entry),
                entry.models,
                list(entry.headers.items()),
                entry.priority,
            )
            try:
                native.RouteTable([rule])
            except ValueError as error:
                # Built one by one, so that each error is reported; the rule's number is always 0.
                self._problems.add(here, re.sub(r"^rule 0:? ?", "", str(error)))
                continue
            path = re.sub(r"\{[^}]*:path\}$|\*$", "*", entry.path)
            key = (
                rule[0],
                re.sub(r"\{[^}]*\}", "{}", path),
                frozenset(rule[2]),
                frozenset(rule[3]),
                frozenset(entry.headers.items()),
                entry.priority,
            )
            if here not in self._partial and (first := seen.setdefault(key, index)) != index:
                self._problems.add(here, f"matches the same requests as routes[{first}] and would never be used")

    def _check_provider(self, index: int, name: str, providers: Sequence[str], path: KeyPath = ("provider",)) -> None:
        if not name:
            self._problems.add(("routes", index, *path), "is required")
        elif name not in providers and not self._source.incomplete:
            self._problems.add(("routes", index, *path), f"no provider {shown(name)}{did_you_mean(name, providers)}")

    def _demand_authenticator(self, entries: Mapping[int, RouteConfig]) -> None:
        """Add one problem for all routes that no client could use."""
        locked = [index for index, entry in entries.items() if entry.auth_required]
        if locked:
            others = ", ".join(f"routes[{index}]" for index in locked[1:6]) + (", ..." if len(locked) > 6 else "")
            also = f" (also {others})" if others else ""
            self._problems.add(("routes", locked[0], "auth_required"), f"is true, but {NO_AUTHENTICATOR}{also}")

    def _names(self, entries: Mapping[int, RouteConfig]) -> dict[int, str]:
        """Return each route's unique name for logs and metrics: configured, or made of its match."""
        names: dict[int, str] = {}
        taken: dict[str, int] = {}
        for index, entry in entries.items():
            if entry.name is None:
                continue
            if (first := taken.setdefault(entry.name, index)) != index:
                self._problems.add(
                    ("routes", index, "name"), f"{shown(entry.name)} is the name of routes[{first}] already"
                )
            names[index] = entry.name
        for index, entry in entries.items():
            if entry.name is None:
                made = " ".join(
                    part for part in (",".join(methods_of(entry)), entry.path, ",".join(entry.models)) if part
                )
                name, number = made, 2
                while name in taken:
                    name, number = f"{made} #{number}", number + 1
                taken[name] = index
                names[index] = name
        return names

    # ------------------------------------------------------------ notices for the operator

    def _host(self, gateway: GatewayConfig, providers: Sequence[Provider], routes: Sequence[Route]) -> str:
        """Return the address to listen on. Without files, open routes are limited to this machine unless a host is
        set."""
        open_to_all = {name for route in routes if not route.auth_required for name in route.leads_to()}
        if self._source.alone and open_to_all and "host" not in gateway.model_fields_set:
            self._notices.append(
                "anyone on this machine may use the gateway; it listens on 127.0.0.1 only, because there is no JWT_SECRET "
                "(GATEWAY_HOST=0.0.0.0 opens it to the network)"
            )
            return "127.0.0.1"
        with_keys = sorted(provider.name for provider in providers if provider.api_key and provider.name in open_to_all)
        if with_keys and not is_loopback(gateway.host):
            self._notices.append(
                f"anyone who reaches {gateway.host}:{gateway.port} may use the key of {', '.join(with_keys)} "
                "(auth_required = false)"
            )
        return gateway.host

    def _store(self, workers: int) -> StoreSettings | None:
        """Return the Redis settings, or None when no address is configured."""
        table = self._table(("redis",), RedisConfig)
        if table is None:
            return None
        literal = ("redis", "url") not in self._source.variables
        store = store_settings(self._resolve, table, literal=literal, workers=workers)
        if store is None and not self._problems.within(("redis",)):
            self._notices.append("[redis] has no effect without a url (REDIS_URL), sentinels or nodes")
        return store

    def _note_what_waits(self, routes: Mapping[int, RouteConfig]) -> None:
        """Note keys of features that this version lacks. They are checked, but have no effect."""
        table = self._table(("cache",), CacheConfig)
        for key in () if table is None else CacheConfig.model_fields:
            # A feature that is switched off needs no notice.
            if table is not None and key in table.model_fields_set and getattr(table, key) is not False:
                self._note_without_effect([("cache", key)])
        for key, instead in (("cache_ttl", ""), ("connect_timeout", ": the provider's counts")):
            where = [index for index, route in routes.items() if getattr(route, key) is not None]
            self._note_without_effect([("routes", index, key) for index in where], instead)

    def _note_without_effect(self, paths: Sequence[KeyPath], instead: str = "") -> None:
        """Add one notice for a key, listing its places."""
        if paths:
            others = ", ".join(spelled(path) for path in paths[1:6]) + (", ..." if len(paths) > 6 else "")
            also = f" (also {others})" if others else ""
            self._notices.append(f"{self._problems.place(paths[0])} has no effect in this version{instead}{also}")

    def _note_budgets(self, rules: Sequence[LimitRule], prices: Sequence[ModelPrice], how: LimitSettings) -> None:
        """Note budgets that would not work as they seem to."""
        if not any(rule.allowance.budget_usd for rule in rules):
            return
        if not prices:
            self._notices.append("budget_usd limits nothing: no price is known (write [prices.models])")
        elif not how.state_file:
            self._notices.append("budgets restart at zero with each start: set [rate_limiting] state_file to keep them")


def _by_provider(routes: Iterable[Route]) -> dict[str, list[Route]]:
    """Return the routes that lead to each provider, for those with any."""
    found: dict[str, list[Route]] = {}
    for route in routes:
        for name in dict.fromkeys(route.leads_to()):
            found.setdefault(name, []).append(route)
    return found
