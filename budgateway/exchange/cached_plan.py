"""Parts that pipeline stages contribute to a cached plan, which serves later requests of its kind on the fast path.

A stage contributes with a method `cached_plan(x)`, called when an exchange ends well. It returns the stage's part of
the plan, or None when the stage must see every request of this kind. A stage without the method must see every request
of every kind: that is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.native import LimitSet, Price, Queue, Selector, Split


@dataclass(frozen=True, slots=True)
class Part:
    """A stage's part of a cached plan. This one is empty: the stage does nothing to requests of this kind."""


NOTHING = Part()


@dataclass(frozen=True, slots=True)
class CachedIdentity(Part):
    """The identity stage's part: the plan is for all principals of a class, whom the native half knows by their
    credentials (`native.CredentialCache`)."""

    principal_class: int  # auth.roles.PrincipalClass.number; 0: no principal


@dataclass(frozen=True, slots=True)
class CachedRoute(Part):
    """The route of requests of this kind, and their bounds."""

    place: int  # index in the routing table
    destination: int  # index among the route's destinations
    dialect: int  # the client's
    path: bytes  # where there is no dialect, the path says what the request is about
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
    spends: bool = False  # money is counted
    has_lease: bool = False  # exchanges in flight are counted


@dataclass(frozen=True, slots=True)
class CachedBody(Part):
    """The adapter's part: the body passes, but for the model's name."""

    told: bytes | None = None  # the upstream's name of the model, as JSON, where it differs from the client's


@dataclass(frozen=True, slots=True)
class CachedDestination:
    """A destination of a split, for the choice among them."""

    selector: Selector
    queue: Queue | None  # of the exchanges that wait while all of its upstreams are full; None: none ever waits


@dataclass(frozen=True, slots=True)
class CachedShape(Part):
    """The route's choice of a destination, made anew for each request, and what pins a client to an upstream."""

    pin_kind: str  # header, user, key, or "" for no pin
    pin_header: str
    split: Split | None
    canary: tuple[str, str] | None  # a header and its value ("": any) that choose the last destination
    destinations: tuple[CachedDestination, ...]


@dataclass(frozen=True, slots=True)
class CachedChoice(Part):
    """The choice of an upstream: made anew for each request, by the same selector."""

    selector: Selector
    left_out: int  # upstreams that do not serve the model, one bit each
    targets: tuple[Any, ...]  # transport.client_cy.Target, by the selector's index
    queue: Queue | None = None  # of the exchanges that wait while all upstreams are full
    serve: Callable[[], None] | None = None  # gives a freed slot to one of them
