"""What one decision asks of limits, and who may answer for several hosts: the contract between the stage and a store."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol


class Kind(IntEnum):
    """How a limit counts."""

    RATE = 0  # a bucket that refills steadily (GCRA): requests or tokens
    CONCURRENCY = 1  # leases: one while an exchange runs
    SPEND = 2  # a sum that begins at zero with each calendar period: micro-dollars


class Demand(NamedTuple):
    """One dimension of a decision. Frozen: `shared.py` and the stage are written against it."""

    key: str  # the limit and its subject, e.g. "team-a/requests_per_minute/user:alice"; equal keys are one counter
    kind: Kind
    # RATE: units per `period_s`; CONCURRENCY: leases at once; SPEND: micro-dollars in the period.
    limit: int
    # RATE: what to debit; CONCURRENCY: 1; SPEND: the estimate. 0 asks only whether there is anything left.
    cost: int
    # RATE: the bucket's size (a full one admits so many at once); else 0.
    burst: int = 0
    # RATE: seconds in which `limit` units refill; SPEND: the period's length, at most (a month: 31 days); else 0.
    period_s: int = 0
    # SPEND: unix seconds at which the period, and with it the counter, ends; else 0.
    ends_s: int = 0


class Standing(NamedTuple):
    """How one demand stands behind the decision."""

    remaining: int  # units left, never negative
    reset_s: float  # seconds until it is as good as new: bucket full, period over; 0 for concurrency


class Verdict(NamedTuple):
    """The answer to one decision, all or nothing: a refused one has consumed nothing."""

    refused_by: int  # index of the demand that refused; -1: admitted
    retry_after_s: float  # seconds until the refusing demand may fit; 0: unknown (concurrency) or admitted
    standings: tuple[Standing, ...]  # one a demand, in order; none: the store is away, and `open`
    lease: str  # names the leases of this decision's CONCURRENCY demands for `release`; "" without


class Adjustment(NamedTuple):
    """What a settled demand turned out to cost: `delta` units more (or fewer, negative) than were debited.

    RATE and SPEND only. More may put a bucket into debt; fewer never makes it fuller than full. SPEND: `ends_s` is that
    of the demand, so that a period that ended meanwhile is left alone.
    """

    demand: Demand
    delta: int


class Release(NamedTuple):
    """An end of leases: those that `decide` gave for `keys` (CONCURRENCY demands) under the name `lease`."""

    lease: str
    keys: tuple[str, ...]


class SharedLimits(Protocol):
    """Limits that hold over all hosts. Every wait has a deadline of milliseconds, inside."""

    @property
    def is_up(self) -> bool:
        """Whether it can tell at the moment. When not, `failure` says at once what `decide` would."""
        ...

    def take(self, demands: Sequence[Demand]) -> Verdict | None:
        """The verdict, where it is known without asking anybody (leased mode)."""

    def failure(self, demands: Sequence[Demand]) -> Verdict | None:
        """What the operator's word for a store that is away comes to (see `decide`)."""

    def decide(self, demands: Sequence[Demand]) -> Awaitable[Verdict | None]:
        """Take all demands or none. None: the store cannot tell and the operator said `local`; the stage then decides
        on this host alone. Raises GatewayError when the operator said `closed`. `open` is an admission without
        standings, that has debited nothing."""
        ...

    def settle(self, adjustments: Sequence[Adjustment]) -> None:
        """Correct debits: fire and forget, sent in batches. Never raises."""

    def went(self, demands: Sequence[Demand]) -> str:
        """Tell what was admitted without being asked for (`decide` could not tell): fire and forget, for the day that it
        can again. Costs may be negative, corrections of what was told so. Returns the name of the leases, "" without."""
        ...

    def release(self, releases: Sequence[Release]) -> None:
        """End leases: fire and forget, sent in batches. Never raises; a lease that is not released expires by itself."""
