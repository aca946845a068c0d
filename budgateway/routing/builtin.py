"""The gateway's own routes, in the same table as the configured ones; the admin server answers them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from budgateway.records import Cors, Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from budgateway.routing.router_cy import Access

OWN_PROVIDER = "gateway"  # name of the provider of the gateway's own routes: the admin server

# These precede every configured route, except the list of models, which a configured route may claim.
_READ = ("GET", "HEAD")
_PATHS: tuple[tuple[str, Access, int, tuple[str, ...]], ...] = (
    ("/health", "open", 1_000_000, _READ),
    ("/livez", "open", 1_000_000, _READ),
    ("/readyz", "open", 1_000_000, _READ),
    ("/metrics", "metrics", 1_000_000, _READ),
    ("/admin/{operation:path}", "admin", 1_000_000, ()),
    ("/v1/models", "models", 0, _READ),
    ("/v1/models/{name:path}", "models", 0, _READ),
)

# The two spellings of "the rest of the path".
_WILDCARD = re.compile(r"/(\*|\{\w+:path\})$")


def own_routes(configured: Iterable[Route], cors: Cors | None = None) -> list[tuple[Route, Access]]:
    """Return the gateway's own routes with the access that each requires; `cors` is the default CORS record.

    In a table they follow the configured routes, because the first of equal routes answers. These routes name their
    methods, and would beat a configured route that has only the path; so a path is left out when a configured route
    claims it, that is, takes every request to it.
    """
    claimed = {
        _WILDCARD.sub("/{name:path}", route.path)
        for route in configured
        if not (route.methods or route.host or route.models or route.headers or route.priority)
    }
    return [
        (
            Route(
                name=OWN_PROVIDER,
                path=path,
                provider=OWN_PROVIDER,
                methods=methods,
                priority=priority,
                auth_required=False,
                # Operators' endpoints: pages are let in only by explicit setting.
                cors=None if cors is None or (access in ("admin", "metrics") and not cors.admin) else cors,
            ),
            access,
        )
        for path, access, priority, methods in _PATHS
        if priority or path not in claimed
    ]
