"""The state of every upstream, as the segment has it: breaker, exchanges in flight, drained or not."""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.wiring import upstream_label

if TYPE_CHECKING:
    from budgateway.records import Provider, Settings, Upstream


class Health:
    """Looks at what all workers share. `adopt` follows a reload."""

    def __init__(self, segment: native.Segment, settings: Settings) -> None:
        self._segment = segment
        self._rows: list[tuple[Provider, Upstream, str, native.Selector]] = []
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Show these upstreams from now on."""
        breaker = settings.breaker
        self._rows = [
            (
                provider,
                upstream,
                upstream_label(provider, number),
                # Only to look: a selector of one never picks.
                native.Selector(
                    self._segment,
                    0,
                    "round_robin",
                    [(self._segment.upstream(upstream.url), 1)],
                    failure_threshold=0 if breaker is None else breaker.failure_threshold,
                    open_ns=0 if breaker is None else int(breaker.open_s * 1e9),
                    half_open_max_calls=0 if breaker is None else breaker.half_open_max_calls,
                ),
            )
            for provider in settings.providers
            for number, upstream in enumerate(provider.upstreams)
        ]

    def upstreams(self) -> list[dict[str, Any]]:
        """Each upstream's state."""
        now_ns = monotonic_ns()
        return [_shown(upstream, label, selector, now_ns) for _, upstream, label, selector in self._rows]

    def providers(self) -> list[dict[str, Any]]:
        """The same by provider. A provider is `up` with all upstreams taking traffic, `degraded` with some, `down` with
        none."""
        now_ns = monotonic_ns()
        found: dict[str, dict[str, Any]] = {}
        for provider, upstream, label, selector in self._rows:
            entry = found.setdefault(provider.name, {"name": provider.name, "kind": provider.kind, "upstreams": []})
            entry["upstreams"].append(_shown(upstream, label, selector, now_ns))
        for entry in found.values():
            taking = [shown["state"] in ("closed", "half_open") for shown in entry["upstreams"]]
            entry["status"] = "up" if all(taking) else "degraded" if any(taking) else "down"
        return list(found.values())

    def queues(self) -> list[dict[str, Any]]:
        """Each provider's queue of exchanges that wait for an upstream with room, and what became of those that waited."""
        names = ("provider", "waiting", "queued", "served", "timed_out", "left", "refused", "waited_s")
        return [dict(zip(names, row, strict=True)) for row in native.Queue.collect(self._segment)]

    def drain(self, name: str, drained: bool) -> list[dict[str, Any]]:
        """Take upstreams out of every worker's choice, or back in: by label, or provider (all of its own). The
        upstreams concerned; empty when there are none of that name."""
        now_ns = monotonic_ns()
        found = []
        for provider, upstream, label, selector in self._rows:
            if name in (label, provider.name):
                selector.drain(0, drained)
                found.append(_shown(upstream, label, selector, now_ns))
        return found


def _shown(upstream: Upstream, label: str, selector: native.Selector, now_ns: int) -> dict[str, Any]:
    state = selector.state(0, now_ns)
    return {
        "name": label,
        "url": upstream.url,
        "weight": upstream.weight,
        "state": state,
        "drained": state == "drained",
        "in_flight": selector.in_flight(0),
        "max_in_flight": upstream.max_in_flight,
    }
