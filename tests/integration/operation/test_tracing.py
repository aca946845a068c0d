"""Tracing: spans of every kind of exchange, by both protocols, and what upstreams learn of the trace."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON
from integration.gateways import CLIENT_KEY, gateway_async
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.collector import Collected, Collector
from upstreams.faulty import FaultyUpstream

from budgateway.records import Fallback, Hedge, Retries, Tracing

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

BODY = b'{"model":"demo","messages":[]}'
STREAMED = b'{"model":"demo","messages":[],"stream":true}'
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-01")
UNSAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-00")
PATHS = {"otlp": "/v1/traces", "jaeger": "/api/traces"}


@asynccontextmanager
async def traced(
    upstreams: Any,
    tmp_path: Path,
    collector: Collector,
    protocol: str = "otlp",
    /,
    *,
    tracing: Any = None,
    **options: Any,
) -> AsyncIterator[Inside]:
    """A gateway that sends its spans to a collector; all are there when it has ended."""
    chosen = Tracing(
        **{"endpoint": collector.url + PATHS[protocol], "protocol": protocol, "ratio": 1.0, "max_per_second": 1e6}
        | (tracing or {})
    )
    async with inside(upstreams, tmp_path, tracing=chosen, **options) as gateway:
        yield gateway


async def ask(gateway: Inside, body: bytes = BODY, *headers: tuple[str, str], path: str = CHAT) -> Any:
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes("a", "POST", path, body, [*JSON, *headers]))
        return await client.answer()


def tree(spans: list[Collected]) -> dict[str, list[Collected]]:
    """Spans by the id of their parent; every id is unique, and every child lies within its parent."""
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    below: dict[str, list[Collected]] = {}
    for span in spans:
        below.setdefault(span.parent, []).append(span)
        if span.parent in by_id:
            parent = by_id[span.parent]
            assert parent.trace_id == span.trace_id
            assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns
    return below


def sent_parent(upstream: FaultyUpstream, number: int = 0) -> re.Match[str]:
    headers = dict(upstream.requests[number].headers)
    found = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", headers["traceparent"])
    assert found is not None
    return found


@pytest.mark.parametrize("protocol", PATHS)
async def test_an_exchange_is_two_spans_and_the_engines_is_below_them(tmp_path: Path, protocol: str) -> None:
    with Collector() as collector:
        async with (
            FaultyUpstream(faults.chat()) as upstream,
            traced(upstream.url, tmp_path, collector, protocol) as gateway,
        ):
            answer = await ask(gateway)
            port = int(upstream.url.rpartition(":")[2])
        server, call = collector.wait(2)
    assert answer.status == 200
    below = tree([server, call])
    assert below[""] == [server]
    assert below[server.span_id] == [call]
    assert (server.name, server.kind, server.is_error) == (f"POST {'/*'}", "server", False)
    assert (call.name, call.kind, call.is_error) == ("chat demo", "client", False)
    theirs = sent_parent(upstream)
    assert (theirs[1], theirs[2], theirs[3]) == (call.trace_id, call.span_id, "03")
    (line,) = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    wanted = {
        "http.request.method": "POST", "url.path": CHAT, "url.scheme": "http", "http.route": "/*",
        "http.response.status_code": 200, "client.address": "127.0.0.1", "network.protocol.version": "1.1",
        "budgateway.route": "r", "budgateway.provider": "p", "budgateway.outcome": "complete", "budgateway.attempts": 1,
        "budgateway.request_id": line["request_id"], "budgateway.sampled_by": "ratio",
    }  # fmt: skip
    assert wanted.items() <= server.attributes.items()
    assert call.attributes == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "demo",
        "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 1,
        "server.address": "127.0.0.1", "server.port": port, "budgateway.upstream": "p",
    }  # fmt: skip
    assert server.resource["service.name"] == "budgateway"


async def test_a_stream_is_two_spans_and_tells_its_first_token(tmp_path: Path) -> None:
    with Collector() as collector:
        stream = faults.stream_bytes(faults.chat_events("one", "two"))
        async with FaultyUpstream(faults.raw(stream)) as upstream, traced(upstream.url, tmp_path, collector) as gateway:
            await ask(gateway, STREAMED)
        server, call = collector.wait(2)
    assert server.events == ["first_token"]
    assert call.attributes["gen_ai.request.stream"] is True
    assert 0 < call.attributes["gen_ai.response.time_to_first_chunk"] < 60
    assert call.attributes["gen_ai.usage.output_tokens"] == 2


async def test_a_clients_trace_goes_on_whatever_its_dialect(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector, tracing={"ratio": 0.0}) as gateway:
                state = ("tracestate", "vendor=1"), ("baggage", "a=b")
                await ask(gateway, BODY, SAMPLED, *state)
                anthropic = b'{"model":"demo","max_tokens":9,"messages":[{"role":"user","content":"x"}]}'
                await ask(gateway, anthropic, SAMPLED, path="/v1/messages")
        spans = collector.wait(4)
    below = tree(spans)
    assert {span.trace_id for span in spans} == {TRACE}
    assert [span.kind for span in below[PARENT]] == ["server", "server"]
    for number, server in enumerate(below[PARENT]):
        (call,) = below[server.span_id]
        assert sent_parent(upstream, number)[2] == call.span_id
        assert server.attributes["budgateway.sampled_by"] == "parent"
    headers = dict(upstream.requests[0].headers)
    assert (headers["tracestate"], headers["baggage"]) == ("vendor=1", "a=b")


@pytest.mark.parametrize(("rule", "links"), [("link", [TRACE]), ("ignore", [])])
async def test_the_traces_of_strangers_do_not_go_on(tmp_path: Path, rule: str, links: list[str]) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector, tracing={"parent": rule}) as gateway:
                await ask(gateway, BODY, SAMPLED)
        server, call = collector.wait(2)
    assert server.trace_id == call.trace_id != TRACE
    assert (server.parent, server.links) == ("", links)


async def test_an_exchange_that_is_not_sampled_passes_untouched(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector, tracing={"ratio": 0.0}) as gateway:
                await ask(gateway, BODY, UNSAMPLED, ("tracestate", "vendor=1"))
                await ask(gateway)
    first, second = (dict(request.headers) for request in upstream.requests)
    assert (first["traceparent"], first["tracestate"]) == (UNSAMPLED[1], "vendor=1")
    assert "traceparent" not in second
    assert collector.spans == []


async def test_an_upstream_that_refuses_the_headers_gets_none(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            options: Any = {"provider": {"forward_trace": False}}
            async with traced(upstream.url, tmp_path, collector, **options) as gateway:
                await ask(gateway, BODY, SAMPLED, ("tracestate", "vendor=1"), ("baggage", "a=b"))
        assert len(collector.wait(2)) == 2
    assert not {"traceparent", "tracestate", "baggage"} & dict(upstream.requests[0].headers).keys()


async def test_each_of_several_attempts_is_a_span(tmp_path: Path) -> None:
    with Collector() as collector:
        async with (
            FaultyUpstream(faults.status(503)) as busy,
            FaultyUpstream(faults.chat()) as upstream,
            traced([busy.url, upstream.url], tmp_path, collector) as gateway,
        ):
            while not busy.requests:
                answer = await ask(gateway)
                assert answer.status == 200
            asked = len(upstream.requests)
        spans = [span for span in collector.wait(1) if span.trace_id == sent_parent(busy)[1]]
    assert len(spans) == 4
    below = tree(spans)
    (server,) = below[""]
    (call,) = below[server.span_id]
    first, second = sorted(below[call.span_id], key=lambda span: span.start_ns)
    assert not server.is_error
    assert not call.is_error
    assert (first.is_error, second.is_error) == (True, False)
    assert first.attributes["http.response.status_code"] == 503
    assert first.attributes["budgateway.retry_reason"] == "pressure"
    assert second.attributes["http.request.resend_count"] == 1
    assert sent_parent(busy)[2] == first.span_id
    assert sent_parent(upstream, asked - 1)[2] == second.span_id


async def test_a_failure_is_kept_with_its_attempts_though_it_was_not_sampled(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.status(502)) as one, FaultyUpstream(faults.status(502)) as two:
            async with traced([one.url, two.url], tmp_path, collector, tracing={"ratio": 0.0}) as gateway:
                answer = await ask(gateway, BODY, UNSAMPLED)
        assert answer.status == 502
        below = tree(collector.wait(4))
    (server,) = below[PARENT]
    assert server.is_error
    assert server.attributes["budgateway.sampled_by"] == "error"
    assert dict(one.requests[0].headers)["traceparent"] == UNSAMPLED[1]


async def test_refusals_of_the_gateway_are_one_span(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector, path="/v1/*") as gateway:
                answer = await ask(gateway, path="/elsewhere")
        (server,) = collector.wait(1)
    assert answer.status == 404
    assert (server.kind, server.is_error, server.attributes["error.type"]) == ("server", False, "route_not_found")


async def test_the_loser_of_a_hedge_is_told_apart(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.silent()) as slow, FaultyUpstream(faults.chat()) as fast:
            route = {"retries": Retries(hedge=Hedge(after_s=0.02))}
            async with traced([slow.url, fast.url], tmp_path, collector, route=route) as gateway:
                while not slow.requests:
                    await ask(gateway)
        spans = [span for span in collector.wait(1) if span.trace_id == sent_parent(slow)[1]]
    errors = sorted(span.attributes.get("error.type", "") for span in spans)
    assert errors == ["", "", "", "hedge_lost"]
    (lost,) = (span for span in spans if span.attributes.get("error.type") == "hedge_lost")
    assert lost.span_id == sent_parent(slow)[2]


async def test_a_fallback_is_an_event(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.status(500)) as bad, FaultyUpstream(faults.chat()) as good:
            route = {"retries": Retries(fallbacks=(Fallback("/good"),))}
            options: Any = {"route": route, "beside": {"/good": good.url}}
            async with traced(bad.url, tmp_path, collector, **options) as gateway:
                answer = await ask(gateway)
        spans = collector.wait(4)
    assert answer.status == 200
    reasons = [span.attributes.get("budgateway.retry_reason") for span in spans]
    assert "status" in reasons


async def test_what_leaves_the_fast_path_is_only_what_is_sampled(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector, tracing={"ratio": 0.0}) as gateway:
                assert gateway.plane.fastpath is not None
                async with Downstream(gateway.url) as client:
                    for headers in ([], [UNSAMPLED], [SAMPLED], []):
                        for _ in range(3):
                            await client.send(request_bytes("a", "POST", CHAT, BODY, [*JSON, *headers]))
                            assert (await client.answer()).status == 200
                served = gateway.plane.fastpath.native.served()
        assert len(collector.wait(6)) == 6
    assert served == 3 - 1 + 3 + 3  # the first one caches the plan


async def test_no_flag_of_a_client_makes_us_send_more_than_the_most(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector, tracing={"max_per_second": 5.0}) as gateway:
                async with Downstream(gateway.url) as client:
                    for _ in range(300):
                        await client.send(request_bytes("a", "POST", CHAT, BODY, [*JSON, SAMPLED]))
                        assert (await client.answer()).status == 200
                seconds = 1 + (gateway.plane._loop.time() - gateway.gateway.started)
            counts = gateway.gateway.tracing.counts()
    assert 1 <= counts["kept"] <= 5 * (seconds + 1)
    assert counts["kept"] + counts["dropped"] == 300
    assert counts["exported"] == counts["kept"]


async def test_a_timeline_is_told_to_the_client_and_leaves_no_other_trace(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, tracing=Tracing(requests=True)) as gateway:
            answer = await ask(gateway)
            await gateway.until(lambda: bool(gateway.gateway.tracing.timelines), "the timeline")
            (shown,) = gateway.gateway.tracing.timelines
    assert "traceparent" not in dict(upstream.requests[0].headers)
    timing = answer.header("server-timing")
    assert re.findall(r"(\w+);dur=\d+\.\d{3}", timing) == ["read", "plan", "queue", "connect", "upstream", "hold"]
    assert answer.header("x-budgateway-trace-id") == f"{shown.trace_id:032x}"


@pytest.mark.parametrize("protocol", PATHS)
async def test_a_collector_that_is_away_costs_spans_and_nothing_else(tmp_path: Path, protocol: str) -> None:
    status = 503
    with Collector(lambda: status) as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            tracing = {"timeout_s": 0.2}
            async with traced(upstream.url, tmp_path, collector, protocol, tracing=tracing) as gateway:
                assert (await ask(gateway)).status == 200
                counts = gateway.gateway.tracing.counts
                await gateway.until(lambda: counts()["failed"] == 1, "the failure")
                status = 200
                assert (await ask(gateway)).status == 200
            assert counts() == {"kept": 2, "dropped": 0, "exported": 1, "failed": 1}
        assert len(collector.wait(2)) == 2


async def test_no_secret_is_in_a_span(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector) as gateway:
                headers = [("authorization", "Bearer planted-1"), ("x-api-key", "planted-2"), ("cookie", "c=planted-3")]
                body = b'{"model":"demo","messages":[{"role":"user","content":"planted-4"}],"user":"planted-5"}'
                await ask(gateway, body, *headers, path=CHAT + "?key=planted-6")
        collector.wait(2)
    assert b"planted" not in b"".join(collector.bodies)


async def test_spans_say_who_asked_only_if_they_may(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector, tracing={"principal": False}) as gateway:
                await ask(gateway)
        server, _ = collector.wait(2)
    assert not {"client.address", "budgateway.principal", "budgateway.tenant"} & server.attributes.keys()


async def test_a_reload_changes_what_is_traced(tmp_path: Path) -> None:
    with Collector() as collector:
        async with FaultyUpstream(faults.chat()) as upstream:
            async with traced(upstream.url, tmp_path, collector, tracing={"ratio": 0.0}) as gateway:
                settings = gateway.gateway.settings
                assert settings.tracing is not None
                exported = []
                for tracing in (settings.tracing, replace(settings.tracing, ratio=1.0), None, settings.tracing):
                    fresh = replace(settings, tracing=tracing)
                    gateway.plane.commit(gateway.plane.prepare(fresh))
                    gateway.gateway.tracing.adopt(fresh)
                    await ask(gateway)
                    if tracing is not None and tracing.ratio:
                        await gateway.until(lambda: gateway.gateway.tracing.exported == 1, "the spans")
                    exported.append(gateway.gateway.tracing.exported)
    assert exported == [0, 1, 1, 1]


async def test_the_environment_of_a_jaeger_works_as_people_write_it() -> None:
    """Through a supervisor and a worker in processes of their own."""
    with Collector() as collector:
        env = {
            "ENABLE_TRACING": "true",
            "JAEGER_ENDPOINT": collector.url + "/api/traces",
            "OTEL_TRACES_SAMPLER_ARG": "1.0",
            "OTEL_SERVICE_NAME": "front",
            "ENABLE_REQUEST_TRACING": "false",
        }
        async with FaultyUpstream(faults.chat()) as upstream, gateway_async(upstream.url, env=env) as server:
            async with Downstream(server.url) as client:
                await client.send(
                    request_bytes("a", "POST", CHAT, BODY, [*JSON, ("authorization", f"Bearer {CLIENT_KEY}")])
                )
                assert (await client.answer()).status == 200
        spans = [span for span in collector.wait(2) if span.attributes.get("url.path") != "/readyz"]
    assert {span.name for span in spans} >= {"POST /v1/*", "chat demo"}
    assert spans[0].resource["service.name"] == "front"
