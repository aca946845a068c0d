"""The Python API of the route table: built from a configuration or in code, matches one request at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

from budgateway import native
from budgateway.records import Match, Route, Settings

Rule = tuple[str, str, Sequence[str], Sequence[str], Sequence[tuple[str, str]], int]
Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class RouteMatch(NamedTuple):
    """One route's result for a request, with the reason."""

    route: Route
    matched: bool
    why: str


class RouteTable:
    """An immutable table that finds the route for a request. Specific beats general, then the first wins.

    The order of preference is priority, host, path (literal, then parameter, then wildcard, segment by segment),
    methods, model (exact, then longer prefix, then glob, then any), number of headers, position. Safe to use from
    several threads.
    """

    __slots__ = ("_native", "_routes")

    def __init__(self, routes: Iterable[Route]) -> None:
        """Raise ValueError for an invalid pattern; the message names the rule and the reason."""
        self._routes = tuple(routes)
        self._native = native.RouteTable([rule_of(route) for route in self._routes])

    @classmethod
    def from_settings(cls, settings: Settings) -> RouteTable:
        """Build the table of a configuration: `RouteTable.from_settings(load_config("config"))`."""
        return cls(settings.routes)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes, in the given order."""
        return self._routes

    def __len__(self) -> int:
        return len(self._routes)

    def match(
        self, method: str, path: str, *, model: str | None = None, host: str = "", headers: Headers | None = None
    ) -> Match | None:
        """Return the route that answers, or None.

        A query in `path` and a port in `host` are ignored. Header names in `headers` may be in any case.
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
    ) -> list[RouteMatch]:
        """Return every route's verdict in order of preference: the first that matched answers."""
        method, path, host, pairs = _normal(method, path, host, headers)
        said = self._native.explain(method, path, host, model, pairs)
        return [RouteMatch(self._routes[index], matched, why) for index, matched, why in said]


def rule_of(route: Route) -> Rule:
    """A route in the native table's form."""
    return (route.host, route.path, route.methods, route.models, route.headers, route.priority)


def _normal(method: str, path: str, host: str, headers: Headers | None) -> tuple[str, str, str, list[tuple[str, str]]]:
    """Normalize a request's parts as the server's parser would."""
    # A mapping is also an iterable, of names: type checkers cannot tell the two apart here.
    pairs = cast("Iterable[tuple[str, str]]", headers.items() if isinstance(headers, Mapping) else headers or ())
    host = host.strip().lower()
    if host.startswith("["):
        host = host[: host.find("]") + 1] or host
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return method.upper(), path.partition("?")[0], host, [(name.lower(), value) for name, value in pairs]
