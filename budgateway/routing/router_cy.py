"""The routing stage: peeks at the body for the model and finds the route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from budgateway.errors import (
    BadRequest,
    GatewayError,
    MethodNotAllowed,
    ModelNotFound,
    RouteNotFound,
    UnsupportedCoding,
)
from budgateway.exchange.cached_plan import CachedRoute
from budgateway.native import Peeker, RouteTable
from budgateway.records import METHODS
from budgateway.routing.cors import check_handshake
from budgateway.wire.target import query_model, target_agrees

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from budgateway.errors import GatewayError
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.native import RequestHead
    from budgateway.records import Route

MAX_NAME = 256  # characters of a model's name in a cached plan: clients may invent names

# Flags of the native scan, as C numbers.
_UPGRADE = 8
_JSON = 32
_ENCODED = 256
_TARGET_MODEL = 16384

_CHANGING = ("POST", "PUT", "PATCH")

Access = Literal["open", "authenticated", "models", "metrics", "admin"]


class Destination:
    """One destination of a route: a provider, with its adapters and the balancer of its upstreams. An exchange is on
    one destination at a time (`x.destination`)."""

    def __init__(
        self,
        adapters: Sequence[Any],
        balancer: Any,
        provider: str,
        label: int,
        *,
        budget: Any = None,
        hold_bytes: int = 0,
        first_event_s: float = 0.0,
        transforms: Any = None,
    ) -> None:
        """`adapters` by the client's dialect (`x.dialect`). `label` is the provider's label in metrics. `transforms`
        (transform.stages.ProviderTransforms) edit what its upstreams are sent, and their answers."""
        self.adapters = tuple(adapters)
        self.balancer = balancer
        self.provider = provider
        self.label = label
        self.budget = budget
        self.hold_bytes = hold_bytes
        self.first_event_ns = int(first_event_s * 1e9)
        self.transforms = transforms


class CompiledRoute:
    """A compiled route: the record, and the objects built from it for the stages. Timeouts in nanoseconds."""

    def __init__(
        self,
        record: Route,
        *,
        access: Access,
        label: int,
        destinations: Sequence[Destination],
        fallbacks: Sequence[Destination] = (),
        shape: Any = None,
        mirror: Any = None,
        attempts: Any,
        stages: Sequence[Any] = (),
        cors: Any = None,
    ) -> None:
        """An exchange begins on one of `destinations`; when it fails there, `attempts` (balance.attempts_cy.Attempts)
        moves it to the `fallbacks` in order. `stages` run in order, after the limits and before the choice of an
        upstream: each has a method `decide(x)`, which raises a GatewayError to refuse, or returns an awaitable to wait
        for, or None. `cors` (wire.cors.CrossOrigin): the origins whose pages may read the responses."""
        self.record = record
        self.name = record.name
        self.access = access
        self.label = label
        self.limits: Any = None  # limits.stage_cy.RouteLimits, set once all routes are compiled
        self.destinations = tuple(destinations)
        self.fallbacks = tuple(fallbacks)
        self.shape = shape
        self.mirror = mirror
        self.attempts = attempts
        self.stages = tuple(stages)
        self.cors = cors
        self.transforms: Any = None  # transform.stages.RouteTransforms, or None
        self.place = -1  # in the router's table
        self.comment_ns = int(record.stream_keepalive_s * 1e9)
        self.max_body_bytes = record.max_body_bytes
        self.first_byte_ns = int(record.timeouts.first_byte_s * 1e9)
        self.chunk_ns = int(record.timeouts.chunk_s * 1e9)
        self.total_ns = int(record.timeouts.total_s * 1e9)

    def is_cacheable(self) -> bool:
        """True when every stage specific to the route supports cached plans, that is, has a `cached_plan` method."""
        edits = (self.transforms, self.destinations[0].transforms)
        for stage in (self.shape, self.mirror, self.attempts.hedging, *edits, *self.stages):
            if stage is not None and not hasattr(stage, "cached_plan"):
                return False
        return True

    def follow_models(self, version: int) -> None:
        """Make the balancers follow the upstreams' model lists; `version` is the segment's."""
        for destination in (*self.destinations, *self.fallbacks):
            destination.balancer.follow_models(version)

    def may_replay(self, x: Exchange) -> bool:
        """True when a request that may have reached an upstream can be sent again (RELIABILITY 2.2)."""
        return self.record.replays(x.head.method, x.head.path)


def path_of(x: Exchange) -> bytes:
    """The path in the key of a cached plan: empty where the request's dialect says what it is about."""
    return b"" if x.dialect else x.head.path.encode("latin-1")


def methods_of(table: RouteTable, head: RequestHead) -> list[str]:
    """The methods with which some route takes this request, even if only with a model."""
    headers = head.headers()
    return [method for method in METHODS if table.lookup(method, head.path, head.host, None, headers) not in (-1, -2)]


class Router:
    """Holds the route table and its compiled routes; `match` is the stage."""

    def __init__(
        self,
        compiled_routes: Sequence[CompiledRoute],
        model_labels: Mapping[str, int],
        default_max_body_bytes: int,
        own_from: int | None = None,
    ) -> None:
        """`model_labels`: the models that the configuration names; metrics label all others "other". The compiled
        routes from `own_from` on are the gateway's own."""
        table = RouteTable(
            [
                (compiled.record.host, compiled.record.path, compiled.record.methods, compiled.record.models, compiled.record.headers,
                 compiled.record.priority)
                for compiled in compiled_routes
            ],
            len(compiled_routes) if own_from is None else own_from,
        )  # fmt: skip
        self.compiled_routes = tuple(compiled_routes)
        for place, compiled in enumerate(self.compiled_routes):
            compiled.place = place
        self.table = table
        self._find = table.find
        self._peek = Peeker().peek
        self._configured = model_labels
        self._model_labels = model_labels
        self._default_limit = default_max_body_bytes

    def learn(self, listed: Mapping[str, int]) -> None:
        """Give models that providers list labels of their own, besides those of the configuration."""
        self._model_labels = {**listed, **self._configured}

    def match(self, x: Exchange) -> None:
        """Find the route, or raise: RouteNotFound, MethodNotAllowed, ModelNotFound, UnsupportedCoding, or BadRequest
        for a broken body or an ambiguous path. A policy of the route may refuse too (OriginRefused, `Shape.apply`)."""
        model: str | None = None
        body = x.body
        flags = x.flags
        if body is not None and flags & _JSON and not flags & _ENCODED:
            x.peek = self._peek(body)
            model = x.peek.model
            x.streams = x.peek.stream
        elif x.form is not None:
            model = x.form.model
        elif flags & _UPGRADE and x.body_done and body is None:
            model = self._asked_model(x)
        # A model that cannot be read may be any; without a body there is none.
        hides = not model and (not x.body_done or (body is not None and len(body) > 0))
        if flags & _TARGET_MODEL and not hides and (model or x.head.method in _CHANGING):
            hides = not target_agrees(x.head.path, x.head.query, model or "")
            if hides:
                model = None  # the upstream decides which of the two models runs
        x.hides_model = hides
        if model is not None:
            x.model = model
            x.model_label = self._model_labels.get(model, 0)
        index = self._find(x.head, model)
        if index < 0:
            raise self._nothing(x, index)
        compiled = self.compiled_routes[index]
        x.route = compiled
        x.destination = compiled.destinations[0]
        if compiled.cors is not None:
            origin = x.head.header("origin")
            x.cors = compiled.cors.lines(origin)
            if compiled.record.websocket is not None:
                check_handshake(compiled.cors, x.head, origin)
        if compiled.shape is not None:
            compiled.shape.apply(x)
            if x.handshake is not None and not x.model:
                x.hides_model = True  # a frame may name it
        if compiled.max_body_bytes != self._default_limit:
            x.downstream.limit_body(x, compiled.max_body_bytes)

    def cached_plan(self, x: Exchange) -> CachedRoute | None:
        """The route's part of a cached plan. None for requests that the cache's key does not fully identify: roles may
        depend on the method, and a fallback has its own prices and model names."""
        compiled = x.route
        destination = x.destination
        if (
            x.head.method != "POST"
            or destination not in compiled.destinations
            or not x.model
            or x.hides_model
            or len(x.model) > MAX_NAME
        ):
            return None
        return CachedRoute(
            compiled.place,
            compiled.destinations.index(destination),
            x.dialect,
            path_of(x),
            (compiled.label, destination.label, x.model_label),
            compiled.max_body_bytes,
            min(compiled.first_byte_ns, compiled.total_ns),
            b"" if compiled.cors is None else compiled.cors.plain,
            compiled.cors is not None and compiled.cors.by_origin,
        )

    def _asked_model(self, x: Exchange) -> str | None:
        """The model that a query names (OpenAI's realtime API), or None when the route is not for WebSockets: elsewhere
        any client may send `Upgrade`, and the query concerns only the upstream."""
        model = query_model(x.head.query)
        if model is not None:
            index = self._find(x.head, model)
            if index >= 0:
                compiled = self.compiled_routes[index]
                return model if compiled.record.websocket is not None else None
            if index == -3 and self._find(x.head, None) < 0:
                return model  # no route takes this model, or a request without one
        return None

    def name_late(self, x: Exchange, model: str) -> None:
        """Set the model of a form that named it after sending had begun. BadRequest when another route would match."""
        compiled = x.route
        if x.flags & _TARGET_MODEL and not target_agrees(x.head.path, x.head.query, model):
            return
        if self._find(x.head, model) != compiled.place:
            raise BadRequest(
                "the form's field 'model' comes too late, and the route depends on it: send it before the file",
                param="model",
            )
        x.model = model
        x.model_label = self._model_labels.get(model, 0)

    def _nothing(self, x: Exchange, why: int) -> GatewayError:
        path = x.head.path
        if why == -4:
            return BadRequest(
                f"the path {path} could also be read as a path of another route",
                hint="write the path as that route does: without parameters, trailing slashes or unnecessary escapes",
            )
        if why == -2:
            return MethodNotAllowed(f"no route takes {x.head.method} {path}", allow=methods_of(self.table, x.head))
        if why == -3:
            if x.model:
                return ModelNotFound(f"no route serves the model '{x.model}' on {path}", param="model")
            if x.flags & _ENCODED:
                return UnsupportedCoding(
                    f"the route on {path} depends on the model, and the gateway cannot read a body with this content-encoding"
                )
            return ModelNotFound(f"no route on {path} accepts a request without a model", param="model")
        return RouteNotFound(f"no route for {path}")
