"""The route table as Python sees it: built from a configuration or in code, asked one request at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from budgateway import native
from budgateway.records import Match, Route, Settings

Rule = tuple[str, str, Sequence[str], Sequence[str], Sequence[tuple[str, str]], int]
Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class Verdict(NamedTuple):
    """What one route says to a request, and why."""

    route: Route
    matched: bool
    why: str


class RouteTable:
    """Immutable: which of some routes answers a request. Specific beats general, then the first wins.

    The order of preference is priority, host, path (literal, then parameter, then wildcard, segment by segment), methods,
    model (exact, then longer prefix, then glob, then any), number of headers, place. Safe to use from several threads.
    """

    __slots__ = ("_native", "_routes")

    def __init__(self, routes: Iterable[Route]) -> None:
        """Raises ValueError for a pattern that cannot be; it says which rule and why."""
        self._routes = tuple(routes)
        self._native = native.RouteTable([rule_of(route) for route in self._routes])

    @classmethod
    def from_settings(cls, settings: Settings) -> RouteTable:
        """The table of a configuration: `RouteTable.from_settings(load_config("config"))`."""
        return cls(settings.routes)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes, in the order they were given."""
        return self._routes

    def __len__(self) -> int:
        return len(self._routes)

    def match(
        self, method: str, path: str, *, model: str | None = None, host: str = "", headers: Headers | None = None
    ) -> Match | None:
        """The route that answers, or None.

        `path` may carry a query, `host` a port: neither takes part. `headers` are by name, in any case.
        """
        method, path, host, pairs = _normal(method, path, host, headers)
        index = self._native.lookup(method, path, host, model, pairs)
        if index < 0:
            return None
        why = next(why for rule, _, why in self._native.explain(method, path, host, model, pairs) if rule == index)
        route = self._routes[index]
        return Match(route=route, provider=route.provider, params=self._native.params(index, path), reason=why)

    def explain(
        self, method: str, path: str, *, model: str | None = None, host: str = "", headers: Headers | None = None
    ) -> list[Verdict]:
        """Every route's verdict in the order of preference: the first one that matched answers."""
        method, path, host, pairs = _normal(method, path, host, headers)
        said = self._native.explain(method, path, host, model, pairs)
        return [Verdict(self._routes[index], matched, why) for index, matched, why in said]


def rule_of(route: Route) -> Rule:
    """A route as the compiled table takes it."""
    return (route.host, route.path, route.methods, route.models, route.headers, route.priority)


def _normal(method: str, path: str, host: str, headers: Headers | None) -> tuple[str, str, str, list[tuple[str, str]]]:
    """The parts of a request as the front door would have parsed them."""
    # A mapping is an iterable too, of names: checkers cannot tell which of the two this one is.
    pairs = cast("Iterable[tuple[str, str]]", headers.items() if isinstance(headers, Mapping) else headers or ())
    host = host.strip().lower()
    if host.startswith("["):
        host = host[: host.find("]") + 1] or host
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return method.upper(), path.partition("?")[0], host, [(name.lower(), value) for name, value in pairs]
