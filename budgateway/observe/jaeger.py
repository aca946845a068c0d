"""Sends spans to Jaeger's collector as Thrift over HTTP, on the port that Jaeger itself documents (14268).

OpenTelemetry's exporter for it is no longer kept. The message is a `Batch` of Jaeger's `jaeger.thrift` in Thrift's
binary protocol, of which it needs structs, lists, and five types.
"""

from __future__ import annotations

import logging
import ssl
import urllib.request
from struct import pack
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanKind
from opentelemetry.trace.status import StatusCode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

_log = logging.getLogger("budgateway.tracing.jaeger")

# Thrift's type ids (TBinaryProtocol).
_STOP, _BOOL, _DOUBLE, _I32, _I64, _STRING, _STRUCT, _LIST = 0, 2, 4, 8, 10, 11, 12, 15
# jaeger.thrift: the types of a tag, each with the number and type of its value's field; of a reference; flags.
_TAG_STRING, _TAG_DOUBLE, _TAG_BOOL, _TAG_LONG = 0, 1, 2, 3
_FOLLOWS_FROM = 1
_IS_SAMPLED = 1


class JaegerExporter(SpanExporter):
    """Posts batches of spans. Raises nothing: a batch that is not accepted is a failure, to be counted."""

    def __init__(
        self, endpoint: str, *, headers: Mapping[str, str], timeout_s: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._endpoint = endpoint
        self._headers = {**headers, "content-type": "application/x-thrift"}
        self._timeout_s = timeout_s
        # Without the environment's proxies: a collector is near, and spans are not for a proxy.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch."""
        request = urllib.request.Request(self._endpoint, batch(spans), self._headers, method="POST")  # noqa: S310 - the configuration admits http and https only
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                response.read()
        except (OSError, ValueError) as error:
            _log.debug("cannot send spans: %s", error)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS


def batch(spans: Sequence[ReadableSpan]) -> bytes:
    """Encode spans of one resource as a Thrift `Batch`."""
    resource = spans[0].resource if spans else None
    return _field(_STRUCT, 1, _process(resource)) + _field(_LIST, 2, _list(map(_span, spans))) + _end()


def _process(resource: Resource | None) -> bytes:
    attributes = {} if resource is None else dict(resource.attributes)
    name = str(attributes.pop("service.name", "budgateway"))
    return _field(_STRING, 1, _text(name)) + _field(_LIST, 2, _tags(attributes)) + _end()


def _span(span: ReadableSpan) -> bytes:
    context = span.context or INVALID_SPAN_CONTEXT
    start_us = (span.start_time or 0) // 1000
    tags: dict[str, Any] = {**(span.attributes or {}), "span.kind": SpanKind(span.kind).name.lower()}
    if span.status.status_code is StatusCode.ERROR:
        tags["error"] = True
        tags["otel.status_code"] = "ERROR"
    if span.instrumentation_scope is not None:
        tags["otel.scope.name"] = span.instrumentation_scope.name
    return b"".join(
        (
            _field(_I64, 1, _id(context.trace_id)),
            _field(_I64, 2, _id(context.trace_id >> 64)),
            _field(_I64, 3, _id(context.span_id)),
            _field(_I64, 4, _id(0 if span.parent is None else span.parent.span_id)),
            _field(_STRING, 5, _text(span.name)),
            _field(_LIST, 6, _list(_reference(link.context) for link in span.links)),
            _field(_I32, 7, pack(">i", _IS_SAMPLED)),
            _field(_I64, 8, pack(">q", start_us)),
            _field(_I64, 9, pack(">q", (span.end_time or 0) // 1000 - start_us)),
            _field(_LIST, 10, _tags(tags)),
            _field(_LIST, 11, _list(_event(event.name, event.timestamp) for event in span.events)),
            _end(),
        )
    )


def _reference(context: SpanContext) -> bytes:
    return b"".join(
        (
            _field(_I32, 1, pack(">i", _FOLLOWS_FROM)),
            _field(_I64, 2, _id(context.trace_id)),
            _field(_I64, 3, _id(context.trace_id >> 64)),
            _field(_I64, 4, _id(context.span_id)),
            _end(),
        )
    )


def _event(name: str, timestamp_ns: int) -> bytes:
    return _field(_I64, 1, pack(">q", timestamp_ns // 1000)) + _field(_LIST, 2, _tags({"event": name})) + _end()


def _tags(attributes: Mapping[str, Any]) -> bytes:
    return _list(_tag(name, value) for name, value in attributes.items())


def _tag(name: str, value: object) -> bytes:
    if isinstance(value, bool):
        kind, field = _TAG_BOOL, _field(_BOOL, 5, pack(">?", value))
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        kind, field = _TAG_LONG, _field(_I64, 6, pack(">q", value))
    elif isinstance(value, float):
        kind, field = _TAG_DOUBLE, _field(_DOUBLE, 4, pack(">d", value))
    else:
        kind, field = _TAG_STRING, _field(_STRING, 3, _text(str(value)))
    return _field(_STRING, 1, _text(name)) + _field(_I32, 2, pack(">i", kind)) + field + _end()


def _field(kind: int, number: int, value: bytes) -> bytes:
    return pack(">bh", kind, number) + value


def _end() -> bytes:
    return pack(">b", _STOP)


def _list(structs: Any) -> bytes:
    found = list(structs)
    return pack(">bi", _STRUCT, len(found)) + b"".join(found)


def _text(text: str) -> bytes:
    data = text.encode(errors="replace")
    return pack(">i", len(data)) + data


def _id(number: int) -> bytes:
    """Write the low 64 bits of an id, which Thrift has as a signed number."""
    return pack(">Q", number & 0xFFFF_FFFF_FFFF_FFFF)
