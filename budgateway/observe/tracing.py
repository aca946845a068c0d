"""Trace export: turns workers' records into spans and sends them, in a thread of the supervisor.

OpenTelemetry's library makes and sends the spans; it is imported in that thread, and only if spans are sent. What waits
stays a record (half a kilobyte; a span takes ten), so the queue is bounded in bytes, and every drop is counted.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections import deque
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from budgateway.exchange.timing import stages
from budgateway.observe.trace_record import read, split

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from budgateway.observe.spans import SpanMaker
    from budgateway.observe.trace_record import TraceRecord
    from budgateway.records import Settings
    from budgateway.records import Tracing as TracingSettings

QUEUE_BYTES = 8 << 20  # 15,000 exchanges: five minutes of 50 a second
BATCH = 128  # exchanges: some 300 spans, a message of 200 KB
DELAY_S = 1.0  # until a batch that is not full is sent
CLOSE_S = 5.0  # for the last batches
RETRY_S = 1.0  # after a failed batch
MAX_RETRY_S = 30.0
SAY_S = 60.0  # between two log lines about drops
TIMELINES = 512  # the last exchanges that are kept for GET /admin/requests

_log = logging.getLogger("budgateway.tracing")


class Tracing:
    """The traces of a gateway: counts, the last timelines, and the export."""

    def __init__(self, settings: Settings) -> None:
        self.kept = 0  # exchanges
        self.dropped = 0  # exchanges
        self.exported = 0  # exchanges
        self.failed = 0  # exchanges
        self.timelines: deque[TraceRecord] = deque(maxlen=TIMELINES)
        self._settings = settings
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing_at = 0.0
        self._generation = 0
        self._said_at = float("-inf")
        self._said_dropped = 0

    def adopt(self, settings: Settings) -> None:
        """Send spans by these settings from now on."""
        with self._changed:
            if settings.tracing != self._settings.tracing or settings.providers != self._settings.providers:
                self._generation += 1
            self._settings = settings

    def take(self, records: bytes, kept: int, dropped: int) -> None:
        """Take a worker's records. Never blocks."""
        tracing = self._settings.tracing
        if tracing is None:
            return
        self.kept += kept
        self.dropped += dropped
        found = split(records)
        if tracing.requests:
            for record in found:
                self._show(read(record))
        if tracing.endpoint:
            self._enqueue(found)
        if self.dropped != self._said_dropped and time.monotonic() - self._said_at >= SAY_S:
            _log.warning("tracing: %d exchanges were not traced so far: more than can be sent, or kept", self.dropped)
            self._said_dropped, self._said_at = self.dropped, time.monotonic()

    def close(self) -> None:
        """Send what waits, within CLOSE_S. Idempotent. Blocks."""
        with self._changed:
            self._closing_at = self._closing_at or time.monotonic() + CLOSE_S
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def counts(self) -> dict[str, int]:
        """Return the number of exchanges by what became of their spans."""
        return {"kept": self.kept, "dropped": self.dropped, "exported": self.exported, "failed": self.failed}

    def requests(self, request_id: str = "") -> list[dict[str, Any]]:
        """Return the last timelines, newest first: all, or those of a request id."""
        return [document(r) for r in list(self.timelines) if not request_id or r.request_id == request_id]

    def _enqueue(self, found: list[bytes]) -> None:
        with self._changed:
            if self._closing_at:
                self.dropped += len(found)
                return
            for record in found:
                if self._queued_bytes + len(record) > QUEUE_BYTES:
                    self.dropped += 1
                else:
                    self._queue.append(record)
                    self._queued_bytes += len(record)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _show(self, r: TraceRecord) -> None:
        """Keep an exchange's timeline, and log it in one line."""
        self.timelines.appendleft(r)
        _log.info(
            "%s %s %s: %s %d, %s, %d attempts, %s",
            r.request_id, r.method, r.path, r.outcome, r.status, r.route or "no route", r.attempt_count,
            " ".join(f"{name} {ns // 1000} us" for name, ns in timeline(r).items()),
        )  # fmt: skip

    # ---------------------------------------------------------------- in the thread

    def _run(self) -> None:
        generation, sender = -1, None
        failures = 0
        while (batch := self._next()) is not None:
            try:
                with self._changed:
                    settings, newest = self._settings, self._generation
                if sender is None or generation != newest:
                    sender, generation = Sender.of(settings), newest
                is_sent = sender is not None and sender.send(batch)
            except Exception:  # noqa: BLE001 - a thread's edge: the next batch is another one
                _log.exception("spans cannot be sent")
                is_sent = False
            if is_sent:
                if failures:
                    _log.info("tracing: spans can be sent again")
                self.exported += len(batch)
                failures = 0
                continue
            self.failed += len(batch)
            failures += 1
            if failures == 1:
                _log.warning("tracing: spans cannot be sent to %s", sender.endpoint if sender else "anywhere")
            with self._changed:
                wait_s = min(RETRY_S * 2.0 ** min(failures - 1, 16), MAX_RETRY_S)
                self._changed.wait_for(lambda: self._closing_at, wait_s)

    def _next(self) -> list[bytes] | None:
        """Return the next batch, after DELAY_S if it is not full; None when everything is sent and the gateway ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing_at)
            if not self._closing_at:
                self._changed.wait_for(lambda: len(self._queue) >= BATCH or self._closing_at, DELAY_S)
            if not self._queue or (self._closing_at and time.monotonic() > self._closing_at):
                self.dropped += len(self._queue)
                self._queue.clear()
                return None
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._queued_bytes -= sum(map(len, batch))
        return batch


class Sender:
    """Sends spans by one configuration."""

    def __init__(self, endpoint: str, maker: SpanMaker, exporter: SpanExporter) -> None:
        self.endpoint = endpoint
        self._maker = maker
        self._exporter = exporter

    @classmethod
    def of(cls, settings: Settings) -> Sender | None:
        """Build the sender of a configuration; None when it sends no spans. Imports what that needs."""
        tracing = settings.tracing
        if tracing is None or not tracing.endpoint:
            return None
        from budgateway.observe.spans import SpanMaker

        maker = SpanMaker(settings, tracing, version("budgateway"))
        return cls(tracing.endpoint, maker, _exporter(tracing))

    def send(self, batch: list[bytes]) -> bool:
        """Send the spans of these records; return whether they were accepted."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        spans = [span for record in batch for span in self._maker.spans(read(record))]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS


def timeline(r: TraceRecord) -> dict[str, int]:
    """Return the nanoseconds of each stage of an exchange."""
    attempt = r.attempts[-1] if r.attempts else None
    last_sent = (attempt.began_ns, attempt.sent_ns) if attempt is not None else (0, 0)
    return stages(list(r.notes), last_sent, r.started_ns, r.first_ns or r.ended_ns, r.ended_ns)


def document(r: TraceRecord) -> dict[str, Any]:
    """Return an exchange's timeline for JSON. Times of attempts are milliseconds after the exchange's begin."""
    began_s = (r.epoch_ns + r.started_ns) / 1e9
    return {
        "request_id": r.request_id,
        "trace_id": f"{r.trace_id:032x}",
        "began": datetime.fromtimestamp(began_s, UTC).isoformat(timespec="milliseconds"),
        "method": r.method,
        "path": r.path,
        "principal": r.principal,
        "route": r.route,
        "model": r.model,
        "status": r.status,
        "outcome": r.outcome,
        "error": r.error,
        "duration_ms": _ms(r.ended_ns - r.started_ns),
        "stages_ms": {name: _ms(ns) for name, ns in timeline(r).items()},
        "attempts": [
            {
                "upstream": attempt.upstream,
                "began_ms": _ms(attempt.began_ns - r.started_ns),
                "sent_ms": _ms(attempt.sent_ns - r.started_ns) if attempt.sent_ns else None,
                "ended_ms": _ms((attempt.ended_ns or r.ended_ns) - r.started_ns),
                "status": attempt.status if attempt.reason else r.status,
                "given_up": attempt.reason,
                "connection": "reused" if attempt.is_reused else "new",
            }
            for attempt in r.attempts
        ],
    }


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)


def _exporter(tracing: TracingSettings) -> SpanExporter:
    headers = {name: value.reveal() for name, value in tracing.headers}
    if tracing.protocol == "jaeger":
        from budgateway.observe.jaeger import JaegerExporter

        tls = ssl.create_default_context(cafile=tracing.ca_file or None)
        return JaegerExporter(tracing.endpoint, headers=headers, timeout_s=tracing.timeout_s, tls=tls)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    # Each failure is logged here, once; the library would log every attempt.
    for name in ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.exporter.otlp.common"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"certificate_file": tracing.ca_file} if tracing.ca_file else {}
    return OTLPSpanExporter(
        tracing.endpoint, headers=headers, timeout=tracing.timeout_s, compression=Compression.Gzip, **options
    )
