"""Parts that pipeline stages contribute to a cached plan, which serves later requests of its kind on the fast path.

A stage contributes with a method `cached_plan(x)`, called when an exchange ends well. It returns the stage's part of
the plan, or None when the stage must see every request of this kind. A stage without the method must see every request
of every kind: that is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgateway.native import LimitSet, Price, Selector


@dataclass(frozen=True, slots=True)
class Part:
    """A stage's part of a cached plan. This one is empty: the stage does nothing to requests of this kind."""


NOTHING = Part()


@dataclass(frozen=True, slots=True)
class CachedIdentity(Part):
    """The principal: the same for every request with the same credential in the same header."""

    credential: bytes | None  # "a" (an authorization) or "k" (a key) and the header's value; None: no credential
    until_s: float  # end of the credential's validity, seconds since the epoch
    asker: tuple[str, str, str, str] | None  # id, subject of limits, key, tenant; None: anonymous
    verified: Any  # the pipeline's own record of it, or None


@dataclass(frozen=True, slots=True)
class CachedRoute(Part):
    """The route of requests of this kind, and their bounds."""

    place: int  # index in the routing table
    labels: tuple[int, int, int]  # route, provider, model
    max_body_bytes: int
    time_limit_ns: int  # time until the earliest of its deadlines
    lines: bytes = b""  # header lines to add to responses
    by_origin: bool = False  # responses to requests with an `origin` differ


@dataclass(frozen=True, slots=True)
class CachedLimits(Part):
    """The limits that count each request, and the price of its tokens."""

    limits: LimitSet | None
    price: Price | None


@dataclass(frozen=True, slots=True)
class CachedChoice(Part):
    """The choice of an upstream: made anew for each request, by the same selector."""

    selector: Selector
    left_out: int  # upstreams that do not serve the model, one bit each
    targets: tuple[Any, ...]  # transport.client_cy.Target, by the selector's index
