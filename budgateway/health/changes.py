"""Log lines for changes of state: breakers, ejections, routes without an upstream, fallbacks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

QUIET_S = 60.0  # without an exchange on a fallback, the route's own provider serves again

_log = logging.getLogger("budgateway.health")


class StateChanges:
    """Compares states with those of the last look, and logs each change once, with its reason."""

    def __init__(self) -> None:
        self._breakers: dict[str, str] = {}
        self._ejections: dict[str, int] = {}
        self._out: set[str] = set()
        self._without: frozenset[str] = frozenset()
        # fallbacks by route: the count, and the time of its last increase while the route is on a fallback
        self._fallbacks: dict[str, int] = {}
        self._since: dict[str, float] = {}

    def look(
        self,
        upstreams: Sequence[dict[str, Any]],
        without: Collection[str],
        fallbacks: Mapping[str, int],
        now_s: float,
    ) -> None:
        """`upstreams` as GET /admin/providers/health shows them, the names of the routes `without` any, and the number
        of exchanges by route that went to a fallback."""
        for shown in upstreams:
            self._breaker(shown)
            self._ejection(shown)
        for name in sorted(frozenset(without) - self._without):
            _log.error("route %s has no upstream that takes traffic", name)
        for name in sorted(self._without - frozenset(without)):
            _log.info("route %s has an upstream again", name)
        self._without = frozenset(without)
        for route, count in fallbacks.items():
            before = self._fallbacks.get(route, 0)
            self._fallbacks[route] = count
            if count > before and route not in self._since:
                _log.warning("route %s: exchanges go to a fallback", route)
            if count > before:
                self._since[route] = now_s
        for route in [route for route, last_s in self._since.items() if now_s - last_s > QUIET_S]:
            del self._since[route]
            _log.info("route %s: no exchange went to a fallback for %.0f s", route, QUIET_S)

    def _breaker(self, shown: dict[str, Any]) -> None:
        name, state = shown["name"], shown["breaker"]["state"]
        before = self._breakers.get(name, "closed")
        self._breakers[name] = state
        if state == before:
            return
        if state == "open":
            calls, failures = shown["breaker"]["calls"], shown["breaker"]["failures"]
            words = f"{failures} of the last {calls} exchanges failed" if calls else shown["reason"]
            _log.warning("upstream %s: breaker open: %s", name, words or "it failed")
        elif state == "half_open":
            _log.info("upstream %s: breaker half open: a few exchanges try it", name)
        else:
            _log.info("upstream %s: breaker closed", name)

    def _ejection(self, shown: dict[str, Any]) -> None:
        name, ejections = shown["name"], shown["ejections"]
        count = ejections["count"]
        if count > self._ejections.get(name, 0):
            self._out.add(name)
            _log.warning(
                "upstream %s: ejected for %.0f s: it failed, and others did not", name, max(ejections["out_for_s"], 1)
            )
        elif name in self._out and not ejections["out_for_s"]:
            self._out.remove(name)
            _log.info("upstream %s: back after its ejection", name)
        self._ejections[name] = count
