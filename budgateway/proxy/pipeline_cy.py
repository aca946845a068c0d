"""THE ORDER: every decision about an exchange, top to bottom, one call per stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from budgateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from budgateway.auth.authenticator_cy import Authenticator
    from budgateway.balance.attempts_cy import Attempts
    from budgateway.balance.balancer_cy import Balancer
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.limits.prepared_cy import RouteLimits
    from budgateway.limits.stage_cy import Limits
    from budgateway.providers.passthrough_cy import Passthrough
    from budgateway.records import Settings
    from budgateway.routing.cors import CrossOrigins
    from budgateway.routing.router_cy import Router
    from budgateway.transport.client_cy import Target


class Stage(Protocol):
    """A stage of some routes only, between the limits and the choice of an upstream (`CompiledRoute.stages`)."""

    def decide(self, x: Exchange) -> Awaitable[None] | None:
        """Decide about an exchange. Returns None to go on, or to answer with the `x.reply` that it has set; else an
        awaitable. Raises GatewayError to refuse. After a wait the next stage is called, unless the wait has set a
        reply."""
        ...


class Snapshot:
    """The immutable stages built from one configuration; an exchange keeps the snapshot it started under."""

    def __init__(
        self,
        settings: Settings,
        auth: Authenticator,
        limits: Limits,
        routes: Router,
        providers: dict[str, tuple[Target, ...]],
        origins: CrossOrigins,
    ) -> None:
        self.settings = settings
        self.auth = auth
        self.limits = limits
        self.routes = routes
        self.providers = providers
        self.origins = origins


def plan(x: Exchange) -> Awaitable[None] | None:
    """Decide what happens to one exchange, and leave in it a plan (target, body to send, deadlines) or a reply.

    Returns None when the plan is complete. A stage that must wait (for Redis, a key set, a queue) returns an awaitable,
    and so does this: called again after the wait, it goes on behind that stage. Raises GatewayError to refuse. A reload
    changes nothing for an exchange in flight, because its stages are its snapshot's.
    """
    snapshot: Snapshot = x.snapshot
    done = x.resume_at  # 0, unless a stage has waited
    if done < 1:
        # authenticate the principal
        waiting = snapshot.auth.identify(x)
        if waiting is not None:
            x.resume_at = 1
            return waiting
    if done < 2:
        try:
            snapshot.routes.match(x)  # peek at the body, find the route
            route = x.route
            snapshot.auth.authorize(x, route.access, route.name)  # check that this principal may use it
            if route.transforms is not None:
                route.transforms.request(x)  # edit what the client sent
        except GatewayError:
            snapshot.limits.unrouted(x)  # count it as unrouted: refused requests are limited, too
            raise
    route = x.route
    if done < 3:
        configured: RouteLimits = route.limits
        # requests, tokens, leases and budgets: all or nothing
        waiting = snapshot.limits.decide(x, configured)
        if waiting is not None:
            x.resume_at = 3
            return waiting
    if done < 4:
        stages = route.stages
        while x.step < len(stages) and x.reply is None:
            stage: Stage = stages[x.step]
            x.step += 1
            waiting = stage.decide(x)
            if waiting is not None:
                x.resume_at = 3
                return waiting
        if x.reply is not None:
            return None
        destination = x.destination
        adapter: Passthrough = destination.adapters[x.dialect]
        x.adapter = adapter
        adapter.request(x)  # the upstream's name for the model, and its dialect
        if x.reply is not None:
            return None  # type: ignore[unreachable]  # the upstream's dialect has no such question: the adapter answered
        if destination.transforms is not None:
            destination.transforms.request(x)  # edit what the upstream is sent
        balancer: Balancer = destination.balancer
        x.resume_at = 4  # only an upstream is left to find: where there is none, a fallback may have one
        return balancer.next(x)  # filter -> score -> pick
    return None


def stages_of(x: Exchange) -> tuple[Any, ...]:
    """Return every stage that decides about this exchange, in the order of `plan`; None stands for one that the route
    does not have. A cached plan needs a part from each."""
    snapshot: Snapshot = x.snapshot
    route = x.route
    destination = x.destination
    attempts: Attempts = route.attempts
    return (
        snapshot.auth,
        snapshot.routes,
        route.shape,
        route.transforms,
        snapshot.limits,
        *route.stages,
        x.adapter,
        destination.transforms,
        destination.balancer,
        route.mirror,
        attempts.hedging,
    )
