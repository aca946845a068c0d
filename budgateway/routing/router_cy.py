"""The routing stage: peeks at the body for the model, finds the route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from budgateway.cached_plan import CachedRoute
from budgateway.errors import BadRequest, MethodNotAllowed, ModelNotFound, RouteNotFound
from budgateway.native import Peeker, RouteTable
from budgateway.records import METHODS
from budgateway.routing.cors import check_handshake
from budgateway.routing.form import model_of, rest_of
from budgateway.wire.upgrade import query_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from budgateway.errors import GatewayError
    from budgateway.exchange_cy import Exchange
    from budgateway.native import RequestHead
    from budgateway.records import Route

MAX_NAME = 256  # characters of a model's name in a cached plan: clients may make names up

# Flags of the native scan, as C numbers.
_UPGRADE = 8
_JSON = 32
_MULTIPART = 64
_ENCODED = 256

Access = Literal["open", "authenticated", "models", "metrics", "admin"]


class Leg:
    """One provider behind a route: how to speak to it, and the choice among its upstreams. An exchange is on one leg at
    a time (`x.leg`)."""

    def __init__(
        self,
        adapter: Any,
        balancer: Any,
        provider: str,
        label: int,
        *,
        budget: Any = None,
        hold_bytes: int = 0,
        first_event_s: float = 0.0,
    ) -> None:
        """`label` is the provider's name as metrics know it."""
        self.adapter = adapter
        self.balancer = balancer
        self.provider = provider
        self.label = label
        self.budget = budget
        self.hold_bytes = hold_bytes
        self.first_event_ns = int(first_event_s * 1e9)


class RouteRoom:
    """A route as the stages see it: the record, and what was built from it. Deadlines in nanoseconds."""

    def __init__(
        self,
        record: Route,
        *,
        access: Access,
        label: int,
        legs: Sequence[Leg],
        fallbacks: Sequence[Leg] = (),
        shape: Any = None,
        mirror: Any = None,
        attempts: Any,
        stages: Sequence[Any] = (),
        cors: Any = None,
    ) -> None:
        """An exchange begins on one of `legs`; `fallbacks` are gone to in their order when it fails there, as `attempts`
        (balance.attempts_cy.Attempts) has it. `stages` decide after the limits and before the choice of an upstream, in
        their order: each has a method `decide(x)`, which refuses by a GatewayError or returns what is to be waited for.
        `cors` (wire.cors.CrossOrigin): pages of other origins that may read the answers."""
        self.record = record
        self.name = record.name
        self.access = access
        self.label = label
        self.limits: Any = None  # limits.stage_cy.RouteLimits, given when all rooms are there
        self.legs = tuple(legs)
        self.fallbacks = tuple(fallbacks)
        self.shape = shape
        self.mirror = mirror
        self.attempts = attempts
        self.stages = tuple(stages)
        self.cors = cors
        self.place = -1  # in the router's table
        self.comment_ns = int(record.stream_keepalive_s * 1e9)
        self.max_body_bytes = record.max_body_bytes
        self.first_byte_ns = int(record.timeouts.first_byte_s * 1e9)
        self.chunk_ns = int(record.timeouts.chunk_s * 1e9)
        self.total_ns = int(record.timeouts.total_s * 1e9)

    def is_cacheable(self) -> bool:
        """Whether every stage particular to the route can vouch for a cached plan. One that has no word about it cannot."""
        for stage in (self.shape, self.mirror, self.attempts.hedging, *self.stages):
            if stage is not None and not hasattr(stage, "cached_plan"):
                return False
        return True

    def may_replay(self, x: Exchange) -> bool:
        """Whether a request that may have reached an upstream can be sent again (RELIABILITY 2.2)."""
        return self.record.replays(x.head.method, x.head.path)


def methods_of(table: RouteTable, head: RequestHead) -> list[str]:
    """With which methods some route takes a request like this one; with a model as well, if it needs one."""
    headers = head.headers()
    return [method for method in METHODS if table.lookup(method, head.path, head.host, None, headers) not in (-1, -2)]


class Router:
    """Holds the table and the rooms behind it; `match` is the stage."""

    def __init__(
        self,
        rooms: Sequence[RouteRoom],
        model_labels: Mapping[str, int],
        default_max_body_bytes: int,
        own_from: int | None = None,
    ) -> None:
        """`model_labels`: the models that the configuration names; metrics call all others "other". The rooms from `own_from`
        on are for what the gateway answers itself."""
        table = RouteTable(
            [
                (room.record.host, room.record.path, room.record.methods, room.record.models, room.record.headers,
                 room.record.priority)
                for room in rooms
            ],
            len(rooms) if own_from is None else own_from,
        )  # fmt: skip
        self.rooms = tuple(rooms)
        for place, room in enumerate(self.rooms):
            room.place = place
        self.table = table
        self._find = table.find
        self._peek = Peeker().peek
        self._model_labels = model_labels
        self._default_limit = default_max_body_bytes

    def match(self, x: Exchange) -> None:
        """Find the route, or refuse: RouteNotFound, MethodNotAllowed, ModelNotFound, BadRequest for a broken body."""
        model: str | None = None
        body = x.body
        flags = x.flags
        if body is not None and not flags & _ENCODED:
            if flags & _JSON:
                x.peek = self._peek(body)
                model = x.peek.model
                x.streams = x.peek.stream
            elif flags & _MULTIPART:
                model = model_of(body)
                if not x.body_done:
                    x.form = rest_of(body)
        elif flags & _UPGRADE:
            model = query_model(x.head.query)  # OpenAI's realtime API
        if model is not None:
            x.model = model
            x.model_label = self._model_labels.get(model, 0)
        index = self._find(x.head, model)
        if index < 0:
            raise self._nothing(x, index)
        room = self.rooms[index]
        x.route = room
        x.leg = room.legs[0]
        if room.cors is not None:
            origin = x.head.header("origin")
            x.cors = room.cors.lines(origin)
            if room.record.websocket is not None:
                check_handshake(room.cors, x.head, origin)
        if room.shape is not None:
            room.shape.apply(x)
        if room.max_body_bytes != self._default_limit:
            x.downstream.limit_body(x, room.max_body_bytes)

    def cached_plan(self, x: Exchange) -> CachedRoute | None:
        """The route and its bounds. None for requests that the routing table tells apart by more than the cache's key:
        roles tell methods apart, and a fallback has prices and names of its own."""
        room: RouteRoom = x.route
        leg: Leg = x.leg
        if x.head.method != "POST" or leg is not room.legs[0] or not x.model or len(x.model) > MAX_NAME:
            return None
        return CachedRoute(
            room.place,
            (room.label, leg.label, x.model_label),
            room.max_body_bytes,
            min(room.first_byte_ns, room.total_ns),
            b"" if room.cors is None else room.cors.plain,
            room.cors is not None and room.cors.by_origin,
        )

    def _nothing(self, x: Exchange, why: int) -> GatewayError:
        path = x.head.path
        if why == -4:
            return BadRequest(
                f"the path {path} may be read as one that another route has",
                hint="write the path as that route has it: without parameters, final slashes and needless escapes",
            )
        if why == -2:
            return MethodNotAllowed(f"no route takes {x.head.method} {path}", allow=methods_of(self.table, x.head))
        if why == -3:
            if x.model:
                return ModelNotFound(f"no route serves the model '{x.model}' on {path}", param="model")
            return ModelNotFound(f"no route on {path} takes a request without a model", param="model")
        return RouteNotFound(f"no route for {path}")
