"""THE ORDER: what is decided about an exchange, top to bottom, one call a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.auth.authenticator_cy import Authenticator
    from budgateway.balance.balancer_cy import Balancer
    from budgateway.exchange_cy import Exchange
    from budgateway.limits.requests_cy import RequestLimits
    from budgateway.providers.adapter_cy import OpenAIAdapter
    from budgateway.records import Settings
    from budgateway.routing.router_cy import Router, RouteRoom
    from budgateway.transport.client_cy import Target


class Snapshot:
    """The immutable set of rooms built from one configuration; an exchange keeps the one it started under."""

    def __init__(
        self,
        settings: Settings,
        auth: Authenticator,
        limits: RequestLimits,
        routes: Router,
        providers: dict[str, tuple[Target, ...]],
    ) -> None:
        self.settings = settings
        self.auth = auth
        self.limits = limits
        self.routes = routes
        self.providers = providers


def plan(x: Exchange) -> None:
    """Decide what happens to one exchange, and leave the plan in it: target, body to send, deadlines.

    Raises GatewayError to refuse it. A reload changes nothing for an exchange in flight: its rooms are its snapshot's.
    """
    rooms: Snapshot = x.snapshot
    rooms.auth.identify(x)  # who is asking
    rooms.limits.admit(x)  # the gateway-wide rate, before any work is done for it
    rooms.routes.match(x)  # peek at the body, find the route
    route: RouteRoom = x.route
    rooms.auth.authorize(x, route.access)  # may this principal use it
    if route.take is not None:
        rooms.limits.reserve(x, route.take, route.name)  # the route's own rate
    adapter: OpenAIAdapter = route.adapter
    adapter.adapt(x)  # the upstream's name for the model
    balancer: Balancer = route.balancer
    balancer.next(x)  # filter -> score -> pick
