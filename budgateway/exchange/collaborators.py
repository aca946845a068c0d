"""Collaborators of an exchange, by what others may use of them: Protocols, because their classes are in higher layers.

A parameter `x` is an Exchange, which cannot be named here because it names these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.native import BodyPump, Redactor, RetryBudget
    from budgateway.records import Route, Upstream


class CompiledRouteLike(Protocol):
    """The route of an exchange: `routing.router_cy.CompiledRoute`. Times in nanoseconds."""

    record: Route
    name: str
    access: Any  # routing.router_cy.Access
    label: int  # in metrics
    place: int  # in the router's table
    limits: Any  # limits.prepared_cy.RouteLimits
    attempts: Any  # balance.attempts_cy.Attempts
    shape: Any  # routing.shape.Shape, or None
    mirror: Any  # balance.mirror.Mirroring, or None
    cors: Any  # wire.cors.CrossOrigin, or None
    destinations: tuple[Any, ...]  # routing.router_cy.Destination
    transforms: Any  # transform.stages.RouteTransforms, or None
    stages: tuple[Any, ...]
    max_body_bytes: int
    first_byte_ns: int
    chunk_ns: int
    total_ns: int
    comment_ns: int

    def is_cacheable(self) -> bool:
        """True when every stage of the route supports cached plans."""
        ...

    def may_replay(self, x: Any) -> bool:
        """True when a request that may have reached an upstream can be sent again."""
        ...


class DestinationLike(Protocol):
    """The destination in use: `routing.router_cy.Destination`."""

    adapters: tuple[Any, ...]  # providers.passthrough_cy.Passthrough, by the client's dialect
    balancer: Any  # balance.balancer_cy.Balancer
    provider: str
    label: int  # in metrics
    budget: RetryBudget | None
    hold_bytes: int
    first_event_ns: int
    transforms: Any  # transform.stages.ProviderTransforms, or None


class TargetLike(Protocol):
    """The upstream of an attempt: `transport.client_cy.Target`."""

    upstream: Upstream
    label: str
    pool: Any  # transport.client_cy.Pool
    dialler: Any  # transport.dial.Dialler
    write_head: Callable[..., bytes]
    write_whole: Callable[..., bytes]
    relocate: Callable[..., Any]
    redactor: Redactor | None
    disclosure: bytes


class UpstreamConnection(Protocol):
    """The connection of an attempt: `transport.client_cy.ClientConnection`."""

    writable: bool

    def send(self, x: Any, head: bytes, body: bytes | None, is_head: bool, last: bool) -> None:
        """Send a request, or begin to."""
        ...

    def send_more(self, data: bytes, last: bool) -> None:
        """Send a piece of a streamed body."""
        ...

    def adopt(self, x: Any) -> None:
        """Take on an exchange whose request was sent already."""
        ...

    def rebind(self, x: Any) -> None:
        """Report to another exchange from now on."""
        ...

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`."""
        ...

    def resume_reading(self) -> None:
        """Read again."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Downstream(Protocol):
    """The client's side: `server.connection_cy.ServerConnection`."""

    writable: bool
    fast_eligible: bool
    place: int

    def write(self, data: bytes) -> None:
        """Send bytes of the response."""
        ...

    def finish(self, keep_alive: bool) -> None:
        """End the response."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...

    def break_off(self, framed: bool) -> None:
        """Break a response off, so that the client sees that it is incomplete."""
        ...

    def pause_reading(self) -> None:
        """Read no more of the request until `resume_reading`."""
        ...

    def resume_reading(self) -> None:
        """Read again."""
        ...

    def limit_body(self, x: Any, limit: int) -> None:
        """Apply a route's limit to the request's body."""
        ...

    def surrender(self) -> tuple[Any, bytes, Any]:
        """Hand over the transport for an upgrade, the bytes that followed the request, and the server state."""
        ...


class Pump(Protocol):
    """A response's body on its way: `native.BodyPump`, or `providers.translating.TranslatingPump`."""

    # of a translated body only
    answer: BodyPump  # the upstream's side
    text: bytes  # the beginning, as the upstream sent it

    @property
    def seen(self) -> int:
        """SEEN_* bits of the upstream's body."""
        ...

    @property
    def passed(self) -> int:
        """Body bytes for the client, without framing."""
        ...

    @property
    def between_events(self) -> bool:
        """True when a comment may be written now."""
        ...

    def feed(self, data: bytes, /) -> bytes | None:
        """Return what a read's bytes become, or None for nothing yet."""
        ...

    def finish(self) -> bytes:
        """Return the rest at the body's end."""
        ...
