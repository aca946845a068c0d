"""The state of every upstream, from the segment and from the probes."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, NamedTuple

from budgateway import native
from budgateway.app.wiring import Pools, care_of, naming_upstreams, targets_of
from budgateway.health.prober import ProbedUpstream, Prober
from budgateway.observe.metrics import queues
from budgateway.system.slices import at_once

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from budgateway.health.probe_state import Answer
    from budgateway.records import Provider, Settings, Upstream
    from budgateway.transport.resolve import Resolver

# The states of an upstream, by what happens with its traffic.
STATES = ("up", "starting", "half_open", "open", "ejected", "resting", "unhealthy", "drained")
# The states in which it gets traffic.
TAKING = ("up", "starting", "half_open")
# A route without an upstream counts as unavailable after this time: a blip is no reason to send clients elsewhere.
LASTING_S = 5.0


class _Row(NamedTuple):
    provider: Provider
    upstream: Upstream
    label: str
    slot: int
    selector: native.Selector


class Health:
    """Reads upstream state from the shared segment and the probes. `adopt` applies a reload."""

    def __init__(self, segment: native.Segment, settings: Settings, prober: Prober | None = None) -> None:
        self._segment = segment
        self._prober = prober
        self._rows: list[_Row] = []
        # route -> time since which none of its upstreams takes traffic
        self._without: dict[str, float] = {}
        at_once(self.adopting(settings))

    def adopting(self, settings: Settings) -> Generator[None, None, None]:
        """Report on these settings' upstreams from the last step on; one provider in a step."""
        rows = []
        keys = yield from naming_upstreams(settings)
        for provider in settings.providers:
            yield
            for number, upstream in enumerate(provider.upstreams):
                slot = self._segment.upstream(keys[provider.name, upstream.url])
                # For reading only: this selector never picks.
                selector = native.Selector(self._segment, 0, "round_robin", [(slot, 1)], **care_of(settings, provider))
                rows.append(_Row(provider, upstream, provider.upstream_label(number), slot, selector))
        self._settings, self._rows = settings, rows

    def upstreams(self) -> list[dict[str, Any]]:
        """Return each upstream's state."""
        now_ns = monotonic_ns()
        return [self._shown(row, now_ns) for row in self._rows]

    def providers(self) -> list[dict[str, Any]]:
        """Return the upstreams' states by provider. A provider is `up` when all its upstreams take traffic, `degraded`
        when some do, `down` when none does; `panic` while so few are available that doubtful ones are used, too."""
        now_ns = monotonic_ns()
        found: dict[str, dict[str, Any]] = {}
        for row in self._rows:
            entry = found.setdefault(
                row.provider.name,
                {"name": row.provider.name, "kind": row.provider.kind, "status": "", "panic": False, "upstreams": []},
            )
            entry["upstreams"].append(self._shown(row, now_ns))
        for entry in found.values():
            shown = entry["upstreams"]
            taking = [one["state"] in TAKING for one in shown]
            entry["status"] = "up" if all(taking) else "degraded" if any(taking) else "down"
            there = [one for one in shown if not one["drained"]]
            # An upstream that is aside would take traffic if the others did not.
            available = sum(one["state"] in TAKING or one["ejections"]["aside"] for one in there)
            doubtful = any(one["state"] in ("ejected", "resting", "unhealthy") for one in there)
            entry["panic"] = doubtful and available * 100 < self._settings.panic_percent * len(there)
        return list(found.values())

    def routes_without_upstream(self, now_s: float) -> list[str]:
        """Return the names of routes for which no upstream, fallbacks included, has taken traffic for LASTING_S."""
        states: dict[str, bool] = {}
        for row, shown in zip(self._rows, self.upstreams(), strict=True):
            states[row.provider.name] = states.get(row.provider.name, False) or shown["state"] in TAKING
        for route in self._settings.routes:
            if any(states.get(name, True) for name in route.holds()):
                self._without.pop(route.name, None)
            else:
                self._without.setdefault(route.name, now_s)
        names = {route.name for route in self._settings.routes}
        return sorted(name for name, since in self._without.items() if name in names and now_s - since >= LASTING_S)

    def is_well(self, label: str) -> bool:
        """True unless the upstream with this label is drained, unhealthy or behind an open breaker. The gateway's own
        requests skip such upstreams."""
        now_ns = monotonic_ns()
        for row in self._rows:
            if row.label == label:
                vitals = row.selector.look(0, now_ns)
                return not (vitals.drained or vitals.healthy is False or vitals.breaker == "open")
        return True

    def queues(self) -> list[dict[str, Any]]:
        """Return each provider's queue: the exchanges that wait for an upstream with capacity, and how earlier waits
        ended."""
        names = ("provider", "waiting", "queued", "served", "timed_out", "left", "refused", "waited_s")
        return [dict(zip(names, (name, *counts), strict=True)) for name, counts in queues(self._segment).items()]

    def drain(self, name: str, drained: bool) -> list[dict[str, Any]]:
        """Take upstreams out of every worker's selection, or back in, by label or by provider (all of its upstreams).
        Returns the upstreams concerned; empty when the name is unknown."""
        now_ns = monotonic_ns()
        found = []
        for row in self._rows:
            if name in (row.label, row.provider.name):
                row.selector.drain(0, drained, now_ns)
                found.append(self._shown(row, now_ns))
        return found

    def _shown(self, row: _Row, now_ns: int) -> dict[str, Any]:
        vitals = row.selector.look(0, now_ns)
        probed = None if self._prober is None else self._prober.of(row.slot)
        state, reason = _state(vitals, probed, now_ns)
        calls, failures = vitals.window
        return {
            "name": row.label,
            "provider": row.provider.name,
            "url": row.upstream.url,
            "weight": row.upstream.weight,
            "state": state,
            "reason": reason,
            "drained": vitals.drained,
            "in_flight": row.selector.in_flight(0),
            "max_in_flight": row.upstream.max_in_flight,
            "share": vitals.share,
            "breaker": {"state": vitals.breaker, "calls": calls, "failures": failures},
            "ejections": {
                "count": vitals.ejections,
                "failures_in_a_row": vitals.failures,
                "out_for_s": round(max(0, vitals.out_until_ns - now_ns) / 1e9, 1),
                "aside": vitals.aside,
            },
            "probe": None if probed is None else _probe(probed),
            "engine": _engine(vitals, now_ns),
            "models": None if probed is None else probed.models,
        }


def probing(
    settings: Settings, segment: native.Segment, known: Collection[str] = (), resolver: Resolver | None = None
) -> Generator[None, None, tuple[list[ProbedUpstream], list[tuple[int, bool]]]]:
    """Find the arguments of `Prober.adopt`, one provider in a step: the upstreams to probe, with their provider's key and TLS settings; and
    all upstreams, each with whether any upstream of its provider is in `known`, the URLs of the previous
    configuration."""
    pools: Pools = {}
    by_load = {route.provider for route in settings.routes if "load_reports" in native.POLICIES[route.load_balancer]}
    keys = yield from naming_upstreams(settings)
    wanted: list[ProbedUpstream] = []
    upstreams: list[tuple[int, bool]] = []
    for provider in settings.providers:
        yield
        beside = any(upstream.url in known for upstream in provider.upstreams)
        slots = [segment.upstream(keys[provider.name, upstream.url]) for upstream in provider.upstreams]
        upstreams += [(slot, beside) for slot in slots]
        if provider.health_check is not None:
            found = targets_of(_from_root(provider), pools, resolver=resolver)
            for slot, target in zip(slots, found, strict=True):
                one = ProbedUpstream(target.label, slot, target, provider.health_check)
                one.by_load = provider.name in by_load
                one.model_prefix = provider.strip_model_prefix
                wanted.append(one)
    return wanted, upstreams


def _from_root(provider: Provider) -> Provider:
    """Return the provider as it is probed: engines answer `/health` and `/metrics` next to `/v1`, not under it.

    Endpoints are often written in the form that SDKs take, `http://gpu:8000/v1`.
    """
    upstreams = tuple(replace(upstream, path=upstream.path.removesuffix("/v1")) for upstream in provider.upstreams)
    return replace(provider, upstreams=upstreams)


def _state(vitals: native.UpstreamHealth, probed: ProbedUpstream | None, now_ns: int) -> tuple[str, str]:
    """Return one word for what happens with the upstream's traffic, and the reason."""
    if vitals.drained:
        return "drained", "drained by an operator"
    if vitals.breaker != "closed":
        return vitals.breaker, "too many exchanges failed"
    if vitals.out_until_ns > now_ns:
        if vitals.asked:
            return "resting", "its response asked for a pause (Retry-After)"
        return "ejected", "several exchanges in a row failed" + (": unused while others answer" if vitals.aside else "")
    if vitals.healthy is False:
        return "unhealthy", "" if probed is None else probed.state.reason
    if vitals.share < 1:
        return "starting", "ramping up to its full share"
    return "up", ""


def _probe(probed: ProbedUpstream) -> dict[str, Any]:
    state = probed.state
    answer: Answer | None = state.answer
    return {
        "healthy": state.healthy,
        "path": probed.check.generate_model or probed.check.path,
        "at": None if answer is None else round(answer.at_s, 3),
        "status": None if answer is None else answer.status or None,
        "ms": None if answer is None else round(answer.ms, 1),
        "reason": "" if answer is None else answer.reason,
        "count": state.probes,
        "failed": state.failures_in_all,
        "suspicions": probed.suspicions,
    }


def _engine(vitals: native.UpstreamHealth, now_ns: int) -> dict[str, Any] | None:
    if vitals.signals is None:
        return None
    running, waiting, kv_usage = vitals.signals
    return {
        "running": running,
        "waiting": waiting,
        "kv_usage": kv_usage,
        "age_s": round(max(0, now_ns - vitals.signals_at_ns) / 1e9, 1),
    }
