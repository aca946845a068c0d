"""Conversion of tables to records: limits and prices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgateway.config.problems import Problems, did_you_mean, shown
from budgateway.config.resolve import burst_of
from budgateway.config.schema_limits import PricesConfig, RateLimitingConfig, RuleConfig
from budgateway.config.source import KeyPath
from budgateway.records import MAX_FILL_S, Allowance, LimitRule, LimitSettings, ModelPrice, Provider, RateLimit, Route

if TYPE_CHECKING:
    from budgateway.config.schema_limits import Subject

HERE: KeyPath = ("rate_limiting",)
TOO_LARGE = "is too large for its rate: it would take decades to fill"
_AMOUNTS = (
    "requests_per_minute",
    "requests_per_hour",
    "requests_per_day",
    "tokens_per_minute",
    "tokens_per_day",
    "concurrency",
    "budget_usd",
)


def overall(table: RateLimitingConfig | None, problems: Problems) -> RateLimit | None:
    """Return each client's rate over all routes; None when the table holds only rules."""
    if table is None or not table.enabled:
        return None
    if table.rules and not {"requests_per_minute", "burst_capacity"} & table.model_fields_set:
        return None
    burst = table.burst_capacity or burst_of(table.requests_per_minute)
    if burst * 60 / table.requests_per_minute > MAX_FILL_S:
        problems.add((*HERE, "burst_capacity"), TOO_LARGE)
    return RateLimit(table.requests_per_minute, burst)


def settings(table: RateLimitingConfig | None, problems: Problems, folder: Callable[[KeyPath], Path]) -> LimitSettings:
    """Return the settings common to all limits."""
    if table is None:
        return LimitSettings()
    state_file = ""
    if table.state_file is not None:
        path: KeyPath = (*HERE, "state_file")
        file = (folder(path) / table.state_file).resolve()
        if not file.parent.is_dir():
            problems.add(path, f"there is no folder {shown(str(file.parent))}")
        elif file.is_dir():
            problems.add(path, f"{shown(str(file))} is a folder")
        state_file = str(file)
    return LimitSettings(
        headers=table.headers,
        output_tokens=table.default_output_tokens,
        queue_size=table.queue_size,
        queue_timeout_s=table.queue_timeout,
        state_file=state_file,
        ipv6_prefix=table.ipv6_prefix,
    )


def rules(table: RateLimitingConfig | None, routes: Sequence[Route], problems: Problems) -> tuple[LimitRule, ...]:
    """Return the rules, each with a unique name."""
    if table is None:
        return ()
    found: list[LimitRule] = []
    names: dict[str, int] = {}
    for index, entry in enumerate(table.rules):
        here: KeyPath = (*HERE, "rules", index)
        name = entry.name or _name(entry)
        if name in names:
            given = (*here, "name") if entry.name else here
            problems.add(given, f"would be called {shown(name)} like rules[{names[name]}]: give it another name")
        names[name] = index
        _check(entry, here, routes, problems)
        rule = _rule(entry, name)
        if rule.allowance.fill_s() > MAX_FILL_S:
            problems.add((*here, "burst"), TOO_LARGE)
        found.append(rule)
    return tuple(found) if table.enabled else ()


def _name(entry: RuleConfig) -> str:
    parts = ["+".join(entry.by)]
    for word, values in (
        ("routes", entry.routes),
        ("models", entry.models),
        ("tenants", entry.tenants),
        ("roles", entry.roles),
    ):
        if values:
            parts.append(f"{word} {','.join(values)}")
    return "; ".join(parts)


def _check(entry: RuleConfig, here: KeyPath, routes: Sequence[Route], problems: Problems) -> None:
    if not any(getattr(entry, amount) for amount in _AMOUNTS):
        problems.add(here, f"limits nothing: give it one of {', '.join(_AMOUNTS)}")
    rates = (entry.requests_per_minute, entry.requests_per_hour, entry.requests_per_day)
    if entry.burst and not any(rates):
        problems.add((*here, "burst"), "has no effect without a rate of requests")
    known = [route.name for route in routes]
    for index, pattern in enumerate(entry.routes):
        if not any(fnmatchcase(name, pattern) for name in known):
            problems.add((*here, "routes", index), f"no route is called {shown(pattern)}{did_you_mean(pattern, known)}")
    if entry.budget_usd is None and "budget_period" in entry.model_fields_set:
        problems.add((*here, "budget_period"), "has no effect without budget_usd")


def _rule(entry: RuleConfig, name: str) -> LimitRule:
    by: tuple[Subject, ...] = tuple(word for word in entry.by if word != "global")
    return LimitRule(
        name=name,
        by=by,
        allowance=Allowance(
            requests_per_minute=entry.requests_per_minute or 0,
            requests_per_hour=entry.requests_per_hour or 0,
            requests_per_day=entry.requests_per_day or 0,
            burst=entry.burst or 0,
            tokens_per_minute=entry.tokens_per_minute or 0,
            tokens_per_day=entry.tokens_per_day or 0,
            concurrency=entry.concurrency or 0,
            budget_usd=entry.budget_usd or 0.0,
            budget_period=entry.budget_period,
        ),
        routes=tuple(entry.routes),
        models=tuple(entry.models),
        tenants=tuple(entry.tenants),
        roles=tuple(entry.roles),
    )


def prices(table: PricesConfig | None, providers: Sequence[Provider]) -> tuple[ModelPrice, ...]:
    """Return model prices: the operator's first, then the known ones of the providers."""
    table = table or PricesConfig()
    own = tuple(
        ModelPrice(
            model=model,
            input=price.input,
            output=price.output,
            cached=price.input if price.cached is None else price.cached,
            max_output_tokens=price.max_output_tokens or 0,
        )
        for model, price in table.models.items()
    )
    return (*own, *_known(providers)) if table.known else own


def _known(providers: Iterable[Provider]) -> Iterable[ModelPrice]:
    """Yield the package's prices for the services that upstreams belong to; self-hosted ones belong to none."""
    hosted = [
        (provider.name, upstream.url) for provider in providers for upstream in provider.upstreams if upstream.tls
    ]
    if not hosted:
        return
    try:
        # Takes 0.25 s, so imported only when a provider bills; and no worker ever imports it.
        from genai_prices.data import providers as services
    except ImportError:
        return
    seen: set[tuple[str, str]] = set()
    for name, url in hosted:
        for service in services:
            if not re.match(service.api_pattern, url):
                continue
            for model in service.models:
                yield from _listed(name, model, seen)


def _listed(provider: str, model: Any, seen: set[tuple[str, str]]) -> Iterable[ModelPrice]:
    price = model.prices[-1].prices if isinstance(model.prices, list) else model.prices
    read, written = _flat(price, "input_mtok"), _flat(price, "output_mtok")
    if read is None and written is None:
        return
    cached = _flat(price, "cache_read_mtok")
    for pattern in dict.fromkeys((model.id, *_patterns(model.match))):
        if (provider, pattern) not in seen:
            seen.add((provider, pattern))
            yield ModelPrice(
                model=pattern,
                input=read or 0.0,
                output=written or 0.0,
                cached=(read or 0.0) if cached is None else cached,
                provider=provider,
            )


def _flat(price: Any, field: str) -> float | None:
    """Return a price, without the tiers of very long prompts."""
    value = getattr(price, field, None)
    if value is None:
        return None
    return float(getattr(value, "base", value))


def _patterns(clause: Any) -> Iterable[str]:
    """Yield a clause of the price list as globs; clauses that a glob cannot represent are skipped."""
    for inner in getattr(clause, "or_", ()):
        yield from _patterns(inner)
    if (exact := getattr(clause, "equals", None)) is not None:
        yield exact
    elif (start := getattr(clause, "starts_with", None)) is not None:
        yield f"{start}*"
