"""What pipeline stages contribute to a cached plan: the decision that serves later requests of its kind on the fast path.

A stage vouches with a method `cached_plan(x)`, asked when an exchange ends well. It returns its part of the plan, or None when
it must see every request of this kind. A stage without the method must see every request of every kind: that is the default.
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
    """Who asks: the same for every request with the same credential in the same header."""

    credential: bytes | None  # "a" (an authorization) or "k" (a key) and the header's value; None: no credential
    until_s: float  # end of the credential's validity, seconds since the epoch
    asker: tuple[str, str, str, str] | None  # id, subject of limits, key, tenant; None: anonymous
    standing: Any  # the pipeline's own record of it, or None


@dataclass(frozen=True, slots=True)
class CachedRoute(Part):
    """Where requests of this kind go, and within which bounds."""

    place: int  # in the routing table
    labels: tuple[int, int, int]  # route, provider, model
    max_body_bytes: int
    patience_ns: int  # until the earliest of its deadlines
    lines: bytes = b""  # header lines of its answers
    by_origin: bool = False  # requests that bring an origin are answered otherwise


@dataclass(frozen=True, slots=True)
class CachedLimits(Part):
    """The limits that each request is counted by, and the price of its tokens."""

    limits: LimitSet | None
    price: Price | None


@dataclass(frozen=True, slots=True)
class CachedChoice(Part):
    """The choice among upstreams: made anew for each request, by the same selector."""

    selector: Selector
    left_out: int  # upstreams that do not serve the model, a bit each
    targets: tuple[Any, ...]  # transport.client_cy.Target, by the selector's index
