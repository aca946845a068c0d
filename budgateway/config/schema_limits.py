"""Configuration of limits and prices: `[rate_limiting]`, its rules, and `[prices]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from budgateway.config.types import Count, Seconds, Table, Text, Texts, one_or_many

Subject = Literal["user", "key", "tenant", "model", "route", "address"]
SubjectWord = Literal["user", "key", "tenant", "model", "route", "address", "global"]
# 17 million dollars is what a counter holds.
Dollars = Annotated[float, Field(gt=0, le=10_000_000, allow_inf_nan=False)]
# Dollars for a million tokens.
PerMillion = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


def subjects(value: list[str]) -> list[str]:
    """Check the subjects: each occurs once, and "global" is not combined."""
    if len(set(value)) != len(value):
        raise ValueError("names something twice")
    if "global" in value and len(value) > 1:
        raise ValueError('"global" counts all clients together: it cannot be combined')
    if not value:
        raise ValueError('is empty: write "global" to count all clients together')
    return value


class RuleConfig(Table):
    """One rule: the requests it applies to, the subject it counts by, and the limits."""

    by: Annotated[
        list[SubjectWord],
        BeforeValidator(one_or_many, json_schema_input_type=SubjectWord | list[SubjectWord]),
        AfterValidator(subjects),
    ]
    """Subject that is counted separately: `user`, `key`, `tenant`, `model`, `route`, `address`, a list of them, or `global`."""
    name: Text | None = None
    """Name in messages; counters belong to it. By default made from `by` and the selectors."""
    routes: Texts = []
    """Apply only to these routes, names or globs."""
    models: Texts = []
    """Apply only to these models, exact names or globs, as clients name them."""
    tenants: Texts = []
    """Apply only to principals of these tenants."""
    roles: Texts = []
    """Apply only to principals with one of these roles."""
    requests_per_minute: Count | None = None
    """Requests a minute."""
    requests_per_hour: Count | None = None
    """Requests an hour."""
    requests_per_day: Count | None = None
    """Requests a day."""
    burst: Count | None = None
    """Burst above the shortest of these rates, in requests; default: a tenth of it."""
    tokens_per_minute: Count | None = None
    """Tokens a minute, input and output together."""
    tokens_per_day: Count | None = None
    """Tokens a day, input and output together."""
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Exchanges in flight."""
    budget_usd: Dollars | None = None
    """Dollars that may be spent in a period."""
    budget_period: Literal["day", "week", "month"] = "month"
    """The budget's calendar period, in UTC."""


class RateLimitingConfig(Table):
    """Limits: a request rate for each client over all routes, and rules for everything else."""

    enabled: bool = True
    """Enable the rate and the rules."""
    requests_per_minute: Count = 1000
    """Sustained rate over all routes. With rules, there is no such rate unless this or `burst_capacity` is set."""
    burst_capacity: Count | None = None
    """Burst above the rate, in requests; also the burst of routes with a `rate_limit`. Default: a tenth of the rate."""
    rules: list[RuleConfig] = []
    """Further limits; a request must satisfy all of them."""
    headers: bool = True
    """Report the state of limits to clients in `x-ratelimit-*` and `rate-limit-*` headers."""
    default_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Output tokens to reserve for a request that sets no maximum, until its usage is known."""
    queue_size: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """Requests per worker that may wait for a concurrency limit; 0 refuses them immediately."""
    queue_timeout: Seconds = 5
    """Seconds a request waits for a concurrency limit."""
    state_file: Text | None = None
    """File that keeps budgets and the limits of hours and days over a restart; default: none."""
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    """Prefix length by which IPv6 clients are counted: addresses with the same prefix are one client."""


class PriceConfig(Table):
    """Prices of a model, in dollars per million tokens."""

    input: PerMillion
    """Price of input tokens."""
    output: PerMillion = 0
    """Price of output tokens."""
    cached: PerMillion | None = None
    """Price of cached input tokens; default: the price of input."""
    max_output_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Maximum output tokens of the model."""


class PricesConfig(Table):
    """Prices of models, for budgets and for the cost in logs and usage."""

    known: bool = True
    """Use the prices of the package `genai-prices`, if installed, for the providers in use."""
    models: dict[Text, PriceConfig] = {}
    """Prices by model, exact name or glob, as clients name it; the first match wins, before the known prices."""
