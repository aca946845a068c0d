"""The contract between the limits stage and a store of global limits: demands, verdicts, settlements."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol


class Kind(IntEnum):
    """The way a limit counts."""

    RATE = 0  # a bucket that refills steadily (GCRA): requests or tokens
    CONCURRENCY = 1  # leases: one while an exchange runs
    SPEND = 2  # a sum that begins at zero with each calendar period: micro-dollars


class Demand(NamedTuple):
    """One limit's part in a decision. Do not change it: `redis_limits.py` and the stage depend on it."""

    key: str  # the limit and its subject, e.g. "team-a/requests_per_minute/user:alice"; equal keys are one counter
    kind: Kind
    # RATE: units per `period_s`; CONCURRENCY: leases at once; SPEND: micro-dollars in the period.
    limit: int
    # RATE: units to debit; CONCURRENCY: 1; SPEND: the estimate. 0 only checks that something is left.
    cost: int
    # RATE: the bucket's size (a full bucket admits this many at once); else 0.
    burst: int = 0
    # RATE: seconds in which `limit` units refill; SPEND: the period's length, at most (a month: 31 days); else 0.
    period_s: int = 0
    # SPEND: unix seconds at which the period, and with it the counter, ends; else 0.
    ends_s: int = 0


class LimitState(NamedTuple):
    """The state of one demand's limit after the decision."""

    remaining: int  # units left, never negative
    reset_s: float  # seconds until the limit is whole again: bucket full, period over; 0 for concurrency


class Admission(NamedTuple):
    """The result of one decision, all or nothing: a refused one has consumed nothing."""

    refused_by: int  # index of the demand that refused; -1: admitted
    retry_after_s: float  # seconds until the refusing demand may fit; 0: unknown (concurrency) or admitted
    states: tuple[LimitState, ...]  # one per demand, in order; none: the store is down, and the policy is `open`
    lease: str  # the name of this decision's leases (CONCURRENCY demands), for `release`; "" without


class Adjustment(NamedTuple):
    """A correction of a debit: the demand cost `delta` units more (or fewer, negative) than were debited.

    RATE and SPEND only. More may put a bucket into debt; fewer never overfills it. SPEND: `ends_s` is the demand's, so
    that a period that has ended meanwhile is not touched.
    """

    demand: Demand
    delta: int


class Release(NamedTuple):
    """The end of leases: those that `decide` gave for `keys` (CONCURRENCY demands) under the name `lease`."""

    lease: str
    keys: tuple[str, ...]


class SharedLimits(Protocol):
    """Global limits: they hold over all hosts. Implementations bound every wait to milliseconds."""

    @property
    def is_up(self) -> bool:
        """True while the store answers. When False, `failure` returns at once what `decide` would."""
        ...

    def take(self, demands: Sequence[Demand]) -> Admission | None:
        """Decide without a round trip (leased mode); None when the store must be asked (`decide`)."""

    def failure(self, demands: Sequence[Demand]) -> Admission | None:
        """Apply the operator's `on_store_failure` (see `decide`)."""

    def decide(self, demands: Sequence[Demand]) -> Awaitable[Admission | None]:
        """Take all demands or none. When the store does not answer, the operator's `on_store_failure` applies: `local`
        returns None, and the stage decides on this host only; `closed` raises GatewayError; `open` admits without
        standings and debits nothing."""
        ...

    def settle(self, adjustments: Sequence[Adjustment]) -> None:
        """Correct debits: fire and forget, sent in batches. Never raises."""

    def went(self, demands: Sequence[Demand]) -> str:
        """Report what was admitted without the store (`decide` returned None): fire and forget, debited once the store
        is back. Costs may be negative: corrections of earlier reports. Returns the name of the leases, "" without."""
        ...

    def release(self, releases: Sequence[Release]) -> None:
        """End leases: fire and forget, sent in batches. Never raises; an unreleased lease expires by itself."""
