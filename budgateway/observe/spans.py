"""Spans of traced exchanges, with the names of OpenTelemetry's conventions.

One span for the exchange, one below it for the logical call of a model with all its attempts, and below that one for
each attempt, if there was more than one. The id that went upstream is that of the call if there was one attempt, else
the attempt's, so that an engine's own span is always below ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from budgateway.observe.genai import operation_of, provider_name
from budgateway.observe.trace_record import FELL_BACK, LIMIT_WAIT, QUEUED, WAITED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from budgateway.observe.trace_record import Attempt, TraceRecord
    from budgateway.records import Settings, Tracing, Upstream

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_ERROR = Status(StatusCode.ERROR)
_UNSET = Status(StatusCode.UNSET)
_BAD_OUTCOMES = ("upstream_failed", "truncated")

Attributes = dict[str, str | int | float | bool]


class SpanMaker:
    """Makes spans under one configuration."""

    def __init__(self, settings: Settings, tracing: Tracing, version: str) -> None:
        self.resource = Resource(
            {**dict(tracing.resource), "service.name": tracing.service_name, "service.version": version}
        )
        self._scope = InstrumentationScope("budgateway", version)
        self._names_principal = tracing.principal
        self._scheme = "http" if settings.tls is None else "https"
        self._port = settings.port
        self._paths = {route.name: route.path for route in settings.routes}
        self._kinds = {provider.name: provider.kind for provider in settings.providers}
        self._upstreams: dict[str, Upstream] = {}
        for provider in settings.providers:
            for number, upstream in enumerate(provider.upstreams):
                self._upstreams[provider.upstream_label(number)] = upstream

    def spans(self, r: TraceRecord) -> list[ReadableSpan]:
        """Return the spans of an exchange, the outermost first."""
        server = _context(r.trace_id, r.server)
        parent = _context(r.trace_id, r.parent, remote=True) if r.parent else None
        links = [Link(_context(r.link_trace_id, r.link_span, remote=True))] if r.link_span else []
        is_bad = r.status >= 500 or r.outcome in _BAD_OUTCOMES
        path = self._paths.get(r.route, "")
        made = [
            self._span(
                f"{r.method} {path or r.path}".strip() or "HTTP",
                server,
                parent,
                SpanKind.SERVER,
                self._server_attributes(r, path),
                r.epoch_ns + r.started_ns,
                r.epoch_ns + r.ended_ns,
                is_bad,
                self._events(r),
                links,
            )
        ]
        if r.is_asked:
            made += self._calls(r, server)
        return made

    def _calls(self, r: TraceRecord, server: SpanContext) -> list[ReadableSpan]:
        """Return the span of the logical call, and those of its attempts if there were several."""
        attempts = r.attempts
        only = attempts[0] if len(attempts) == 1 else None
        call = _context(r.trace_id, r.call if only is None else only.span)
        began_ns = min((attempt.began_ns for attempt in attempts if attempt.began_ns), default=r.started_ns)
        is_bad = r.status >= 400 or r.outcome in _BAD_OUTCOMES
        operation = operation_of(r.path)
        name = f"{operation or r.method} {r.model}".strip()
        attributes = self._call_attributes(r, operation, only)
        start, end = _within(r, began_ns, r.ended_ns)
        made = [self._span(name, call, server, SpanKind.CLIENT, attributes, start, end, is_bad)]
        if len(attempts) < 2:
            return made
        for number, attempt in enumerate(attempts):
            is_last = number == len(attempts) - 1
            status = r.status if is_last and not attempt.reason else attempt.status
            error = attempt.reason or (r.error if is_last else "")
            attributes = {
                "http.request.method": r.method,
                "budgateway.upstream": attempt.upstream,
                "budgateway.connection": "reused" if attempt.is_reused else "new",
                **self._address(attempt.upstream),
            }
            if (upstream := self._upstreams.get(attempt.upstream)) is not None:
                attributes["url.full"] = upstream.url + r.path
            if status:
                attributes["http.response.status_code"] = status
            if number:
                attributes["http.request.resend_count"] = number
            if attempt.reason:
                attributes["budgateway.retry_reason"] = attempt.reason
            if error:
                attributes["error.type"] = error
            if not attempt.is_reused and attempt.sent_ns:
                attributes["budgateway.dial_us"] = (attempt.sent_ns - attempt.began_ns) // 1000
            start, end = _within(r, attempt.began_ns or began_ns, attempt.ended_ns or r.ended_ns)
            bad = bool(attempt.reason) or status >= 400 or (is_last and is_bad)
            context = _context(r.trace_id, attempt.span)
            made.append(self._span(r.method, context, call, SpanKind.CLIENT, attributes, start, end, bad))
        return made

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Attributes,
        start_ns: int,
        end_ns: int,
        is_bad: bool,
        events: list[Event] | None = None,
        links: list[Link] | None = None,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context=context,
            parent=parent,
            resource=self.resource,
            attributes=attributes,
            events=events or (),
            links=links or (),
            kind=kind,
            status=_ERROR if is_bad else _UNSET,
            start_time=start_ns,
            end_time=max(start_ns, end_ns),
            instrumentation_scope=self._scope,
        )

    def _server_attributes(self, r: TraceRecord, path: str) -> Attributes:
        found: Mapping[str, Any] = {
            "http.request.method": r.method,
            "url.path": r.path,
            "url.scheme": self._scheme,
            "http.route": path,
            "http.response.status_code": r.status,
            "server.address": r.host,
            "server.port": self._port or None,
            "client.address": r.client if self._names_principal else "",
            "network.protocol.version": "1.0" if r.is_http_10 else "1.1",
            "user_agent.original": r.user_agent,
            "error.type": r.error or ("client_gone" if r.outcome == "client_gone" else ""),
            "budgateway.route": r.route,
            "budgateway.provider": r.provider,
            "budgateway.outcome": r.outcome,
            "budgateway.attempts": r.attempt_count,
            "budgateway.request_id": r.request_id,
            "budgateway.principal": r.principal if self._names_principal else "",
            "budgateway.tenant": r.tenant if self._names_principal else "",
            "budgateway.overhead_us": r.overhead_ns // 1000,
            "budgateway.sampled_by": r.sampled_by,
        }
        attributes = {name: value for name, value in found.items() if value not in ("", None)}
        if r.cost_micros is not None:
            attributes["budgateway.cost_usd"] = r.cost_micros / 1e6
        return attributes

    def _call_attributes(self, r: TraceRecord, operation: str, attempt: Attempt | None) -> Attributes:
        upstream = attempt.upstream if attempt is not None else r.upstream
        attributes: Attributes = {
            "gen_ai.provider.name": provider_name(self._kinds.get(r.provider, "")),
            "budgateway.upstream": upstream,
            **self._address(upstream),
        }
        if operation:
            attributes["gen_ai.operation.name"] = operation
        if r.model:
            attributes["gen_ai.request.model"] = r.model
        if r.is_stream:
            attributes["gen_ai.request.stream"] = True
            if r.first_ns:
                attributes["gen_ai.response.time_to_first_chunk"] = (r.first_ns - r.started_ns) / 1e9
        if r.error or r.status >= 400:
            attributes["error.type"] = r.error or str(r.status)
        elif r.outcome == "client_gone":
            attributes["error.type"] = "client_gone"
        for name, count in (
            ("gen_ai.usage.input_tokens", r.tokens_in),
            ("gen_ai.usage.output_tokens", r.tokens_out),
            ("gen_ai.usage.cache_read.input_tokens", r.tokens_cached),
            ("gen_ai.usage.reasoning.output_tokens", r.tokens_reasoning),
        ):
            if count:
                attributes[name] = count
        if r.is_estimated:
            attributes["budgateway.usage"] = "estimated"
        return attributes

    def _address(self, label: str) -> Attributes:
        upstream = self._upstreams.get(label)
        return {} if upstream is None else {"server.address": upstream.host, "server.port": upstream.port}

    def _events(self, r: TraceRecord) -> list[Event]:
        names = {LIMIT_WAIT: "limit_wait", QUEUED: "queued", FELL_BACK: "fallback"}
        events, last = [], -1
        for kind, at_ns in r.notes:
            name = names.get(kind, "dequeued" if kind == WAITED and last == QUEUED else "")
            last = kind
            if name:
                events.append(Event(name, timestamp=r.epoch_ns + at_ns))
        if r.is_stream and r.first_ns:
            events.append(Event("first_token", timestamp=r.epoch_ns + r.first_ns))
        return events


def _context(trace_id: int, span_id: int, *, remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=remote, trace_flags=_SAMPLED)


def _within(r: TraceRecord, start_ns: int, end_ns: int) -> tuple[int, int]:
    """Return wall-clock times within the exchange's: a child must not exceed its parent."""
    start = min(max(start_ns, r.started_ns), r.ended_ns)
    end = min(max(end_ns, start), r.ended_ns)
    return r.epoch_ns + start, r.epoch_ns + end
