"""THE ORDER: what is decided about an exchange, top to bottom, one call a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.exchange_cy import Exchange


def plan(x: Exchange) -> None:
    """Decide what happens to one exchange, and leave the plan in it: target, body to send, deadlines.

    Raises GatewayError to refuse it. The rooms are those of the exchange's own snapshot: a reload changes nothing for
    an exchange in flight.
    """
    rooms = x.snapshot
    rooms.auth.identify(x)  # who is asking
    rooms.limits.admit(x)  # the gateway-wide rate, before any work is done for it
    rooms.routes.match(x)  # peek at the body, find the route
    rooms.auth.authorize(x)  # may this principal use it
    rooms.limits.reserve(x)  # the route's own rate
    x.route.adapter.adapt(x)  # the upstream's name for the model
    x.route.balancer.next(x)  # filter -> score -> pick
