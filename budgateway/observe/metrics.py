"""Prometheus metrics: renders the segment's counters and histograms, summed over workers, at scrape time."""

from __future__ import annotations

import platform
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    SummaryMetricFamily,
)

from budgateway.native import (
    ABI,
    BUILD_PROFILE,
    GAUGE_CONNECTIONS,
    GAUGE_EXCHANGES,
    GAUGE_MIRRORED,
    GAUGE_MIRRORS_FAILED,
    GAUGE_MIRRORS_SKIPPED,
    GAUGE_POOL_BUSY,
    GAUGE_POOL_IDLE,
    GAUGE_SOCKET_BYTES_IN,
    GAUGE_SOCKET_BYTES_OUT,
    GAUGE_SOCKET_FRAMES_IN,
    GAUGE_SOCKET_FRAMES_OUT,
    GAUGE_SOCKETS,
    GAUGE_STORE_AWAY,
    GAUGE_STORE_CALLS,
    GAUGE_STORE_FALLBACKS,
    GAUGE_STORE_LOST,
    Metrics,
    Queue,
    Segment,
)
from budgateway.system.slices import Rests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_GAUGES = (
    ("budgateway_connections", "Open downstream connections.", GAUGE_CONNECTIONS),
    ("budgateway_in_flight", "Exchanges in flight.", GAUGE_EXCHANGES),
    ("budgateway_upstream_connections_idle", "Idle upstream connections.", GAUGE_POOL_IDLE),
    ("budgateway_upstream_connections_busy", "Busy upstream connections.", GAUGE_POOL_BUSY),
    ("budgateway_websockets", "Open WebSockets.", GAUGE_SOCKETS),
    ("budgateway_store_away", "1 while Redis is down.", GAUGE_STORE_AWAY),
)
_STORE = (
    ("budgateway_store_calls", "Round trips to Redis for limits.", GAUGE_STORE_CALLS),
    ("budgateway_store_fallbacks", "Decisions that Redis did not answer.", GAUGE_STORE_FALLBACKS),
    ("budgateway_store_lost", "Settlements that may not have reached Redis.", GAUGE_STORE_LOST),
)
_COPIES = (("answered", GAUGE_MIRRORED), ("failed", GAUGE_MIRRORS_FAILED), ("skipped", GAUGE_MIRRORS_SKIPPED))
# By direction, like body bytes.
_SOCKETS = (
    ("budgateway_websocket_frames", "WebSocket frames passed on.", GAUGE_SOCKET_FRAMES_IN, GAUGE_SOCKET_FRAMES_OUT),
    ("budgateway_websocket_bytes", "WebSocket bytes passed on.", GAUGE_SOCKET_BYTES_IN, GAUGE_SOCKET_BYTES_OUT),
)


@dataclass(slots=True)
class Reloads:
    """Counts of reloads by result, and the time at which the configuration in use was loaded (seconds since the epoch)."""

    done: int = 0
    refused: int = 0
    is_ok: bool = True
    loaded_s: float = field(default_factory=time.time)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a reload: done, or refused when it raises."""
        try:
            yield
        except Exception:
            self.refused += 1
            self.is_ok = False
            raise
        self.done += 1
        self.is_ok = True
        self.loaded_s = time.time()


class SegmentCollector:
    """A prometheus-client collector over the workers' gauges in the segment."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def collect(self) -> Iterator[Metric]:
        """Yield every family, for one scrape."""
        for name, text, gauge in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=("worker",))
            for worker in range(self._segment.workers):
                family.add_metric((str(worker),), self._segment.gauge(worker, gauge))
            yield family
        for name, text, count in _STORE:
            counted = CounterMetricFamily(name, text, labels=("worker",))
            for worker in range(self._segment.workers):
                counted.add_metric((str(worker),), self._segment.gauge(worker, count))
            yield counted
        for name, text, taken, given in _SOCKETS:
            counter = CounterMetricFamily(name, text, labels=("worker", "direction"))
            for worker in range(self._segment.workers):
                counter.add_metric((str(worker), "in"), self._segment.gauge(worker, taken))
                counter.add_metric((str(worker), "out"), self._segment.gauge(worker, given))
            yield counter
        copies = CounterMetricFamily("budgateway_mirrored", "Copies of requests.", labels=("worker", "result"))
        for worker in range(self._segment.workers):
            for result, gauge in _COPIES:
                copies.add_metric((str(worker), result), self._segment.gauge(worker, gauge))
        yield copies


class QueueCollector:
    """A prometheus-client collector over the queues of exchanges that wait for an upstream."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    def collect(self) -> Iterator[Metric]:
        """Yield every family, for one scrape."""
        depth = GaugeMetricFamily(
            "budgateway_queue_depth", "Exchanges that wait while every upstream is full.", labels=("provider",)
        )
        queued = CounterMetricFamily("budgateway_queued", "Exchanges that had to wait.", labels=("provider",))
        unserved = CounterMetricFamily(
            "budgateway_queue_unserved",
            "Exchanges that left the queue without an upstream: timed out, queue full, or client gone.",
            labels=("provider", "reason"),
        )
        wait = SummaryMetricFamily(
            "budgateway_queue_wait_seconds", "Waiting time of exchanges that got an upstream.", labels=("provider",)
        )
        for name, counts in queues(self._segment).items():
            waiting, joined, served, timed_out, gone, refused, waited_s = counts
            depth.add_metric((name,), waiting)
            queued.add_metric((name,), joined)
            for reason, count in (("timeout", timed_out), ("full", refused), ("left", gone)):
                unserved.add_metric((name, reason), count)
            wait.add_metric((name,), int(served), waited_s)
        yield from (depth, queued, unserved, wait)


def queues(segment: Segment) -> dict[str, list[float]]:
    """The counts of `Queue.collect` by provider, summed over its lanes."""
    found: dict[str, list[float]] = {}
    for name, *counts in Queue.collect(segment):
        provider = name.partition("\x1f")[0]
        found[provider] = [a + b for a, b in zip(found.get(provider, [0] * len(counts)), counts, strict=True)]
    return found


class WorkerCollector:
    """A prometheus-client collector over the supervisor's facts about its workers."""

    def __init__(self, facts: Callable[[], list[dict[str, Any]]]) -> None:
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        """Yield every family, for one scrape. Labelled by row, like the other gauges of workers."""
        resident = GaugeMetricFamily("budgateway_worker_resident_bytes", "Memory held.", labels=("worker",))
        shedding = GaugeMetricFamily(
            "budgateway_worker_shedding", "1 while new exchanges are refused for overload.", labels=("worker",)
        )
        accepting = GaugeMetricFamily(
            "budgateway_worker_accepting",
            "0 while connections are not accepted because memory is low.",
            labels=("worker",),
        )
        restarts = CounterMetricFamily("budgateway_worker_restarts", "Workers that died and were replaced.")
        hung = CounterMetricFamily("budgateway_worker_hung", "Workers killed because their event loop was blocked.")
        lost = CounterMetricFamily("budgateway_access_lines_lost", "Access lines that could not be written.")
        facts = self._facts()
        for worker in facts:
            resident.add_metric((str(worker["row"]),), worker["rss_bytes"])
            shedding.add_metric((str(worker["row"]),), 1 if worker["shedding"] else 0)
            accepting.add_metric((str(worker["row"]),), 1 if worker["accepts"] else 0)
        restarts.add_metric((), sum(worker["restarts"] for worker in facts))
        hung.add_metric((), sum(worker["hung"] for worker in facts))
        lost.add_metric((), sum(worker["access_lines_lost"] for worker in facts))
        yield from (resident, shedding, accepting, restarts, hung, lost)


class UpstreamCollector:
    """A prometheus-client collector over the upstreams' health, in the admin endpoints' form."""

    def __init__(self, upstreams: Callable[[], list[dict[str, Any]]]) -> None:
        self._upstreams = upstreams

    def collect(self) -> Iterator[Metric]:
        """Yield every family, for one scrape. The label is the upstream's name: `provider/number`."""
        label = ("upstream",)
        up = GaugeMetricFamily("budgateway_upstream_up", "1 while the upstream takes traffic.", labels=label)
        breaker = GaugeMetricFamily("budgateway_upstream_breaker_state", "0 closed, 1 half open, 2 open.", labels=label)
        share = GaugeMetricFamily(
            "budgateway_upstream_share", "Share of its weight in use: below 1 while it recovers.", labels=label
        )
        ejections = CounterMetricFamily("budgateway_upstream_ejections", "Times it was ejected.", labels=label)
        probes = CounterMetricFamily("budgateway_upstream_probes", "Probes sent.", labels=(*label, "result"))
        probe_up = GaugeMetricFamily("budgateway_upstream_probe_up", "1 if its probes succeed.", labels=label)
        took = GaugeMetricFamily("budgateway_upstream_probe_seconds", "Duration of the last probe.", labels=label)
        running = GaugeMetricFamily("budgateway_upstream_running", "Requests that its engine is running.", labels=label)
        waiting = GaugeMetricFamily(
            "budgateway_upstream_waiting", "Requests that are waiting in its engine.", labels=label
        )
        usage = GaugeMetricFamily(
            "budgateway_upstream_kv_usage", "Share of its engine's KV cache in use, 0 to 1.", labels=label
        )
        in_flight = GaugeMetricFamily(
            "budgateway_upstream_in_flight", "Exchanges in flight, all workers together.", labels=label
        )
        info = GaugeMetricFamily(
            "budgateway_upstream_info", "Always 1: the upstream's provider and URL.", labels=(*label, "provider", "url")
        )
        for one in self._upstreams():
            name = (one["name"],)
            in_flight.add_metric(name, one["in_flight"])
            info.add_metric((*name, one["provider"], one["url"]), 1)
            up.add_metric(name, one["state"] in ("up", "starting", "half_open"))
            breaker.add_metric(name, ("closed", "half_open", "open").index(one["breaker"]["state"]))
            share.add_metric(name, one["share"])
            ejections.add_metric(name, one["ejections"]["count"])
            if (probe := one["probe"]) is not None:
                probes.add_metric((*name, "good"), probe["count"] - probe["failed"])
                probes.add_metric((*name, "bad"), probe["failed"])
                if probe["healthy"] is not None:
                    probe_up.add_metric(name, probe["healthy"])
                if probe["ms"] is not None:
                    took.add_metric(name, probe["ms"] / 1000)
            if (engine := one["engine"]) is not None:
                running.add_metric(name, engine["running"])
                waiting.add_metric(name, engine["waiting"])
                usage.add_metric(name, engine["kv_usage"])
        yield from (up, breaker, share, ejections, probes, probe_up, took, running, waiting, usage, in_flight, info)


class ProgramCollector:
    """Presents the program's version, and reloads by result."""

    def __init__(self, version: str, reloads: Reloads) -> None:
        self._version = version
        self._reloads = reloads

    def collect(self) -> Iterator[Metric]:
        """Yield every family, for one scrape."""
        build = GaugeMetricFamily(
            "budgateway_build_info", "Always 1: what runs.", labels=("version", "abi", "python", "profile")
        )
        build.add_metric((self._version, str(ABI), platform.python_version(), BUILD_PROFILE), 1)
        reloads = CounterMetricFamily("budgateway_config_reloads", "Reloads, by result.", labels=("result",))
        for result, count in (("done", self._reloads.done), ("refused", self._reloads.refused)):
            reloads.add_metric((result,), count)
        loaded = GaugeMetricFamily(
            "budgateway_config_loaded_timestamp_seconds", "Time at which the configuration in use was loaded."
        )
        loaded.add_metric((), self._reloads.loaded_s)
        ok = GaugeMetricFamily("budgateway_config_last_reload_ok", "0 if the last reload was refused.")
        ok.add_metric((), self._reloads.is_ok)
        yield from (build, reloads, loaded, ok)


class SpanCollector:
    """Presents what became of traced exchanges, from the supervisor's trace export."""

    def __init__(self, counts: Callable[[], dict[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield the only family."""
        spans = CounterMetricFamily("budgateway_spans", "Traced exchanges, by result.", labels=("result",))
        for result, count in self._counts().items():
            spans.add_metric((result,), count)
        yield spans


class Exposition:
    """Renders the text that Prometheus scrapes."""

    def __init__(
        self,
        segment: Segment,
        facts: Callable[[], list[dict[str, Any]]] | None = None,
        upstreams: Callable[[], list[dict[str, Any]]] | None = None,
        spans: Callable[[], dict[str, int]] | None = None,
        program: tuple[str, Reloads] | None = None,
    ) -> None:
        self._facts = facts
        self._upstreams = upstreams
        self._spans = spans
        self._program = program
        self._metrics = Metrics(segment)
        self._of_segment = (SegmentCollector(segment), QueueCollector(segment))

    def look(self) -> Callable[[], bytes]:
        """Read what belongs to the caller's loop. Returns a function for any thread, which reads the segment and
        renders everything in the text format, with rests."""
        registry = _Unhurried(auto_describe=False)
        for collector in self._of_segment:
            registry.register(collector)
        if self._facts is not None:
            facts = self._facts()
            registry.register(WorkerCollector(lambda: facts))
        if self._upstreams is not None:
            upstreams = self._upstreams()
            registry.register(UpstreamCollector(lambda: upstreams))
        if self._spans is not None:
            spans = self._spans()
            registry.register(SpanCollector(lambda: spans))
        if self._program is not None:
            registry.register(ProgramCollector(*self._program))
        return partial(self._render, registry)

    def _render(self, registry: CollectorRegistry) -> bytes:
        # What grows with routes and models is rendered natively, without the interpreter.
        return self._metrics.render() + generate_latest(registry)


class _Unhurried(CollectorRegistry):
    """A registry that rests between families."""

    def collect(self) -> Iterator[Metric]:
        rests = Rests()
        for family in super().collect():
            yield family
            rests.rest()
