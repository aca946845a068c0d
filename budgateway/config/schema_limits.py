"""The operator's words for limits and prices: `[rate_limiting]`, its rules, and `[prices]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from budgateway.config.words import Count, Seconds, Table, Text, Texts, one_or_many

Subject = Literal["user", "key", "tenant", "model", "route", "address"]
SubjectWord = Literal["user", "key", "tenant", "model", "route", "address", "global"]
# 17 million dollars is what a counter holds.
Dollars = Annotated[float, Field(gt=0, le=10_000_000, allow_inf_nan=False)]
# Dollars for a million tokens.
PerMillion = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


def subjects(value: list[str]) -> list[str]:
    """Each once, and "global" alone."""
    if len(set(value)) != len(value):
        raise ValueError("names something twice")
    if "global" in value and len(value) > 1:
        raise ValueError('"global" counts everybody together: it cannot be combined')
    if not value:
        raise ValueError('is empty: write "global" to count everybody together')
    return value


class RuleConfig(Table):
    """One set of limits: for whom, counted by what, how much."""

    by: Annotated[
        list[SubjectWord],
        BeforeValidator(one_or_many, json_schema_input_type=SubjectWord | list[SubjectWord]),
        AfterValidator(subjects),
    ]
    """What is counted apart: `user`, `key`, `tenant`, `model`, `route`, `address`, a list of them, or `global`."""
    name: Text | None = None
    """Its name in messages; what is counted goes with it. Default made of `by` and the selectors."""
    routes: Texts = []
    """Only on these routes, by name or glob."""
    models: Texts = []
    """Only for these models, exact names or globs, as clients say them."""
    tenants: Texts = []
    """Only for principals of these tenants."""
    roles: Texts = []
    """Only for principals with one of these roles."""
    requests_per_minute: Count | None = None
    """Requests a minute."""
    requests_per_hour: Count | None = None
    """Requests an hour."""
    requests_per_day: Count | None = None
    """Requests a day."""
    burst: Count | None = None
    """Requests at once above the shortest of these rates; default a tenth of it."""
    tokens_per_minute: Count | None = None
    """Tokens a minute, read and written ones together."""
    tokens_per_day: Count | None = None
    """Tokens a day."""
    concurrency: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Exchanges at a time."""
    budget_usd: Dollars | None = None
    """Dollars that may be spent in a period."""
    budget_period: Literal["day", "week", "month"] = "month"
    """The budget's period, of the calendar, in UTC."""


class RateLimitingConfig(Table):
    """Limits: requests per minute for each client over all routes, and rules for everything else."""

    enabled: bool = True
    """Switch it and its rules off without deleting them."""
    requests_per_minute: Count = 1000
    """Sustained rate; with rules, and without this and `burst_capacity`, there is none over all routes."""
    burst_capacity: Count | None = None
    """Requests at once above the rate, on routes with a `rate_limit` above theirs, too; default a tenth of the rate."""
    rules: list[RuleConfig] = []
    """Further limits, all of which a request must keep to."""
    headers: bool = True
    """Tell clients how their limits stand, in `x-ratelimit-*` and `rate-limit-*` headers."""
    default_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    """Tokens that an answer is taken to need when its request does not say, until it is known."""
    queue_size: Annotated[int, Field(ge=0, le=100_000)] = 1000
    """Requests, a worker, that wait for a limit of concurrency; 0: none, they are refused at once."""
    queue_timeout: Seconds = 5
    """Seconds they wait."""
    state_file: Text | None = None
    """Where budgets and the limits of hours and days are kept over a restart; default nowhere."""
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    """Bits of an IPv6 address that clients are told apart by: whose addresses begin alike is one client."""


class PriceConfig(Table):
    """What a model's tokens cost, in dollars for a million."""

    input: PerMillion
    """Tokens read."""
    output: PerMillion = 0
    """Tokens written."""
    cached: PerMillion | None = None
    """Tokens read from a cache; default like any other."""
    max_output_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """The most the model writes."""


class PricesConfig(Table):
    """What models cost: for budgets, and the cost in logs and usage."""

    known: bool = True
    """Take what the package `genai-prices` knows of the providers in use, where it is installed."""
    models: dict[Text, PriceConfig] = {}
    """Prices by model, exact name or glob, as clients say it; the first that matches counts, before what is known."""
