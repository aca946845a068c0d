"""Spans of any traced exchange are sound, and both protocols carry the same ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from upstreams.collector import Collected, otlp_spans, thrift_spans

from budgateway.observe.jaeger import batch
from budgateway.observe.spans import SpanMaker
from budgateway.observe.trace_record import OUTCOMES, REASONS, SAMPLED_BY, Attempt, TraceRecord
from budgateway.records import Provider, Route, Settings, Tracing, Upstream

UPSTREAMS = tuple(Upstream(f"http://u{n}:80", False, f"u{n}", 80) for n in range(2))
SETTINGS = Settings(providers=(Provider("p", "vllm", UPSTREAMS),), routes=(Route("r", "/v1/*", "p"),))
MAKER = SpanMaker(SETTINGS, Tracing(resource=(("team", "a"),)), "1")

TIME = st.integers(0, 10**15)
COUNT = st.integers(0, 1 << 40)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ATTEMPT = st.tuples(TIME, TIME, TIME, st.sampled_from([0, 429, 500, 503]), st.sampled_from(["", *REASONS]), st.booleans(), st.sampled_from(["p/0", "p/1", "gone"]))  # fmt: skip


@st.composite
def exchanges(draw: st.DrawFn) -> TraceRecord:
    """A record with ids of its own, and times in any order."""
    facts = draw(st.lists(ATTEMPT, max_size=8))
    ids = draw(st.lists(st.integers(1, (1 << 64) - 1), min_size=len(facts) + 4, max_size=len(facts) + 4, unique=True))
    attempts = tuple(Attempt(span, *fact) for span, fact in zip(ids[4:], facts, strict=True))
    started_ns = draw(TIME)
    links = draw(st.booleans())
    return TraceRecord(
        trace_id=draw(st.integers(1, (1 << 128) - 1)), link_trace_id=7 if links else 0, link_span=ids[0] if links else 0,
        parent=draw(st.sampled_from([0, ids[1]])), server=ids[2], call=ids[3], epoch_ns=draw(st.integers(10**18, 2 * 10**18)),
        started_ns=started_ns, first_ns=draw(TIME), ended_ns=started_ns + draw(TIME), overhead_ns=draw(COUNT),
        attempt_count=len(attempts), retries=0, bytes_in=draw(COUNT), bytes_out=draw(COUNT), tokens_in=draw(COUNT),
        tokens_out=draw(COUNT), tokens_cached=draw(COUNT), tokens_reasoning=draw(COUNT), cost_micros=draw(st.none() | COUNT),
        status=draw(st.integers(0, 599)), outcome=draw(st.sampled_from(OUTCOMES)), sampled_by=draw(st.sampled_from(SAMPLED_BY[1:])),
        is_stream=draw(st.booleans()), is_estimated=draw(st.booleans()), is_http_10=draw(st.booleans()), is_asked=draw(st.booleans()),
        route="r", provider="p", model=draw(WORDS), upstream="p/1", method=draw(WORDS), path=draw(WORDS), host=draw(WORDS),
        request_id=draw(WORDS), client=draw(WORDS), principal=draw(WORDS), tenant=draw(WORDS), error=draw(WORDS),
        user_agent=draw(WORDS), attempts=attempts,
        notes=tuple(draw(st.lists(st.tuples(st.sampled_from([0, 1, 3, 4, 10, 11]), TIME), max_size=6))),
    )  # fmt: skip


def in_microseconds(span: Collected) -> tuple[object, ...]:
    """All that both protocols carry, in Jaeger's resolution."""
    times = (span.start_ns // 1000, (span.end_ns // 1000) - (span.start_ns // 1000))
    return (span.name, span.trace_id, span.span_id, span.parent, span.kind, times, span.attributes, span.is_error, span.events, span.links, span.resource)  # fmt: skip


@given(exchanges())
def test_spans_are_sound_and_both_protocols_carry_them(record: TraceRecord) -> None:
    spans = MAKER.spans(record)
    found = otlp_spans(encode_spans(spans).SerializeToString())
    assert list(map(in_microseconds, found)) == list(map(in_microseconds, thrift_spans(batch(spans))))
    assert {span.trace_id for span in found} == {f"{record.trace_id:032x}"}
    by_id = {span.span_id: span for span in found}
    assert len(by_id) == len(found)
    server, *others = found
    assert server.kind == "server"
    assert server.parent == (f"{record.parent:016x}" if record.parent else "")
    assert bool(others) == record.is_asked
    for span in others:
        parent = by_id[span.parent]
        assert span.kind == "client"
        assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns
    # Whatever went upstream as a parent is a span.
    if record.is_asked:
        assert {f"{attempt.span:016x}" for attempt in record.attempts} <= by_id.keys()
        assert "gen_ai.provider.name" in others[0].attributes
    assert {"http.request.method", "url.path"} <= server.attributes.keys() or not (record.method and record.path)
