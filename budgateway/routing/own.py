"""The gateway's own routes: what the back office answers, in the same table as the routes of the configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from budgateway.records import Route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from budgateway.routing.router_cy import Access
    from budgateway.wire.cors import Cors

OFFICE = "gateway"

# They come before every route but the list of models, which a route of the operator's may claim.
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
    """Each with who may use it; `cors` is what holds where nothing else is said. In a table they stand behind the configured ones, as of equals the first one answers.

    Those here name their methods, and would so beat a route of the operator's that has just the path: one that takes
    every request to it claims it.
    """
    claimed = {
        _WILDCARD.sub("/{name:path}", route.path)
        for route in configured
        if not (route.methods or route.host or route.models or route.headers or route.priority)
    }
    return [
        (
            Route(
                name=OFFICE,
                path=path,
                provider=OFFICE,
                methods=methods,
                priority=priority,
                auth_required=False,
                # Those are the operators': a page must be let in on purpose.
                cors=None if cors is None or (access in ("admin", "metrics") and not cors.admin) else cors,
            ),
            access,
        )
        for path, access, priority, methods in _PATHS
        if priority or path not in claimed
    ]
