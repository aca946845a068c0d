"""A collector of traces: takes OTLP and Jaeger's Thrift over HTTP, and decodes both with their official libraries."""

from __future__ import annotations

import gzip
import importlib.util
import sys
import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collected:
    """One span, whichever protocol brought it."""

    def __init__(
        self,
        name: str,
        trace_id: str,
        span_id: str,
        parent: str,
        kind: str,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, Any],
        is_error: bool,
        events: list[str],
        resource: dict[str, Any],
        links: list[str],
    ) -> None:
        self.name = name
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent = parent  # empty: none
        self.kind = kind
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.attributes = attributes
        self.is_error = is_error
        self.events = events
        self.resource = resource
        self.links = links

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} {self.span_id} below {self.parent or 'nothing'}: {self.attributes}>"


class Collector:
    """A server on a port of its own; `answer` says the status of each request, 200 by default."""

    def __init__(self, answer: Callable[[], int] = lambda: 200) -> None:
        self.spans: list[Collected] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.answer = answer
        self._changed = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            """Takes one message."""

            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = collector.answer()
                if status == 200:
                    collector.take(self.path, dict(self.headers.items()), body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """Decode a message."""
        if headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        spans = thrift_spans(body) if path == "/api/traces" else otlp_spans(body)
        with self._changed:
            self.bodies.append(body)
            self.headers.append(headers)
            self.spans += spans
            self._changed.notify_all()

    def wait(self, count: int, timeout_s: float = 20.0) -> list[Collected]:
        """Return all spans as soon as there are `count`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.spans) >= count, timeout_s), self.spans
            return list(self.spans)


def otlp_spans(body: bytes) -> list[Collected]:
    """Decode an OTLP message."""
    found = []
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = {pair.key: _value(pair.value) for pair in group.resource.attributes}
        for scope in group.scope_spans:
            for span in scope.spans:
                kind = MessageToDict(span)["kind"].removeprefix("SPAN_KIND_").lower()
                found.append(
                    Collected(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        kind,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        {pair.key: _value(pair.value) for pair in span.attributes},
                        span.status.code == 2,
                        [event.name for event in span.events],
                        resource,
                        [link.trace_id.hex() for link in span.links],
                    )
                )
    return found


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def thrift_spans(body: bytes) -> list[Collected]:
    """Decode a batch with the classes that Jaeger's own exporter used."""
    from thrift.protocol.TBinaryProtocol import TBinaryProtocol
    from thrift.transport.TTransport import TMemoryBuffer

    batch = _jaeger_types().Batch()
    batch.read(TBinaryProtocol(TMemoryBuffer(body)))
    resource = {"service.name": batch.process.serviceName, **_tags(batch.process.tags)}
    found = []
    for span in batch.spans:
        tags = _tags(span.tags)
        kind, is_error = tags.pop("span.kind"), tags.pop("error", False)
        for ours in ("otel.status_code", "otel.scope.name"):
            tags.pop(ours, None)
        found.append(
            Collected(
                span.operationName,
                f"{_word(span.traceIdHigh)}{_word(span.traceIdLow)}",
                _word(span.spanId),
                _word(span.parentSpanId) if span.parentSpanId else "",
                kind,
                span.startTime * 1000,
                (span.startTime + span.duration) * 1000,
                tags,
                is_error,
                [_tags(log.fields)["event"] for log in span.logs],
                resource,
                [f"{_word(link.traceIdHigh)}{_word(link.traceIdLow)}" for link in span.references],
            )
        )
    return found


@cache
def _jaeger_types() -> Any:
    """The generated classes of Jaeger's former exporter, which itself no longer imports with today's SDK."""
    (folder,) = importlib.util.find_spec("opentelemetry.exporter.jaeger").submodule_search_locations  # type: ignore[union-attr,misc]
    spec = importlib.util.spec_from_file_location("jaeger_ttypes", f"{folder}/thrift/gen/jaeger/ttypes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _word(number: int) -> str:
    return f"{number & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def _tags(tags: Any) -> dict[str, Any]:
    fields = {0: "vStr", 1: "vDouble", 2: "vBool", 3: "vLong"}
    return {tag.key: getattr(tag, fields[tag.vType]) for tag in tags}
