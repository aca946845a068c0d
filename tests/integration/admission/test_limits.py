"""Limits as clients meet them: one decision over all of them, settled by what an exchange used, given back on every exit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from ports import free_port
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.records import Allowance, LimitRule, LimitSettings, ModelPrice, RateLimit

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
STREAM = faults.stream_bytes(faults.chat_events("one", "two", "three"))
DAY = 86_400


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat("first")) as upstream:
        yield upstream


def rule(*by: str, name: str = "r", **amounts: Any) -> LimitRule:
    """A rule for everybody."""
    return LimitRule(name=name, by=by, allowance=Allowance(**amounts))  # type: ignore[arg-type]


def body(max_tokens: int | None = 10, **more: Any) -> bytes:
    """A request of exactly 400 bytes, so that its prompt is taken for 100 tokens."""
    document = {"model": "demo", "messages": []} | ({} if max_tokens is None else {"max_tokens": max_tokens}) | more
    text = json.dumps(document)
    return (text[:-1] + " " * (400 - len(text)) + "}").encode()


async def ask(gateway: Inside, max_tokens: int | None = 10) -> Answer:
    """One request on a connection of its own, ended."""
    async with Downstream(gateway.url) as client:
        answer = await client.ask("POST", CHAT, body(max_tokens), JSON)
    await gateway.at_rest()
    return answer


def left(answer: Answer, unit: str) -> int:
    """Return the remaining units that the response's headers report."""
    return int(answer.header(f"x-ratelimit-remaining-{unit}") or -1)


async def test_headers_tell_how_limits_stand_and_429_names_the_limit(upstream: FaultyUpstream, tmp_path: Path) -> None:
    rules = (rule("user", name="people", requests_per_minute=60, burst=3, tokens_per_minute=6000),)
    async with inside(upstream.url, tmp_path, limit_rules=rules) as gateway:
        first, second = await ask(gateway), await ask(gateway)
        assert [first.header(f"x-ratelimit-{word}-requests") for word in ("limit", "remaining")] == ["60", "2"]
        assert left(second, "requests") == 1
        assert 5886 <= left(second, "tokens") <= 5890  # 4 used, 110 reserved; 100 a second refill
        assert first.header("rate-limit-limit") == "60"
        assert first.header("x-ratelimit-limit-tokens") == "6000"
        assert first.header("x-ratelimit-reset-requests") == "1s"
        assert (await ask(gateway)).status == 200
        refused = await ask(gateway)
        assert refused.status == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "60 requests a minute" in refused.json()["error"]["message"]
        assert "'people'" in refused.json()["error"]["message"]
        assert refused.header("retry-after") == "1"
        assert left(refused, "requests") == 0
    assert len(upstream.requests) == 3


async def test_upstreams_own_limits_are_not_mixed_with_ours(upstream: FaultyUpstream, tmp_path: Path) -> None:
    theirs = [("x-ratelimit-remaining-requests", "999"), ("anthropic-ratelimit-tokens-limit", "7")]
    upstream.script(*[faults.raw(faults.json_bytes({}, 200, *theirs))] * 2)
    async with inside(upstream.url, tmp_path, limit_rules=(rule("user", requests_per_minute=60),)) as gateway:
        answer = await ask(gateway)
        assert left(answer, "requests") == 5
        assert answer.header("anthropic-ratelimit-tokens-limit") is None
    async with inside(upstream.url, tmp_path) as gateway:
        assert left(await ask(gateway), "requests") == 999


async def tokens_left(gateway: Inside, upstream: FaultyUpstream) -> int:
    """Of the limit of tokens, asked by a request that needs none."""
    await gateway.at_rest()
    upstream.script(faults.raw(faults.json_bytes({})))
    async with Downstream(gateway.url) as client:
        answer = await client.ask("GET", "/v1/anything")
    await gateway.at_rest()
    return left(answer, "tokens")


async def test_a_refused_request_consumes_nothing(upstream: FaultyUpstream, tmp_path: Path) -> None:
    rules = (
        rule(name="all", requests_per_day=DAY, burst=50),
        rule("user", name="tokens", tokens_per_day=1000),
        rule("user", name="money", budget_usd=1.0, budget_period="day"),
    )
    prices = (ModelPrice("demo", input=1000.0, output=1000.0, cached=1000.0),)
    gate = asyncio.Event()
    async with inside(upstream.url, tmp_path, limit_rules=rules, prices=prices) as gateway:
        upstream.script(faults.held(gate, faults.chat("x")), faults.chat("y"))
        first = asyncio.create_task(ask_beside(gateway, 600))
        await gateway.until(lambda: gateway.slots == 1)
        for _ in range(5):
            refused = await ask_beside(gateway, 300)  # 70 cents and 400 tokens more: neither fits
            assert (refused.status, refused.json()["error"]["code"]) == (429, "insufficient_quota")
            refused = await ask_beside(gateway, 1001)
            assert (refused.status, refused.header("x-should-retry")) == (429, "false")
            assert refused.header("retry-after") is None
        fits = await ask_beside(gateway, 190)
        assert (fits.status, left(fits, "requests"), left(fits, "tokens")) == (200, 48, 10)
        gate.set()
        await first
        assert await tokens_left(gateway, upstream) in (992, 993)  # twice 4 were used
    assert len(upstream.requests) == 3


async def test_tokens_are_settled_by_what_was_used(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async with inside(upstream.url, tmp_path, limit_rules=(rule("user", tokens_per_day=1000),)) as gateway:
        # A stream that reports: 3 read, 3 written.
        upstream.script(faults.raw(STREAM))
        assert left(await ask(gateway, 500), "tokens") == 400
        assert await tokens_left(gateway, upstream) == 994
        # One that does not: 400 bytes, and an event for each token.
        silent = faults.stream_bytes(faults.chat_events("one", "two", "three", usage=False))
        upstream.script(faults.raw(silent))
        await ask(gateway, 500)
        assert await tokens_left(gateway, upstream) in (889, 890)
        # More than was reserved.
        upstream.script(faults.raw(faults.json_bytes({"usage": {"prompt_tokens": 800, "completion_tokens": 300}})))
        await ask(gateway, 1)
        assert await tokens_left(gateway, upstream) == 0
        assert (await ask(gateway, 1)).status == 429


async def test_an_error_costs_nothing(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async with inside(upstream.url, tmp_path, limit_rules=(rule("user", tokens_per_day=1000),)) as gateway:
        for answer in (faults.status(500), faults.status(400), faults.raw(b"no HTTP at all\r\n\r\n")):
            upstream.script(answer)
            await ask(gateway, 500)
        assert await tokens_left(gateway, upstream) == 1000


async def test_what_breaks_off_is_counted_by_what_came(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async with inside(upstream.url, tmp_path, limit_rules=(rule("user", tokens_per_day=1000),)) as gateway:
        # Cut off behind "two": role, one, two.
        upstream.script(faults.raw(STREAM[: STREAM.index(b"three")], then_close=True))
        await ask(gateway, 500)
        assert await tokens_left(gateway, upstream) in (897, 898)
        # The client leaves before the first byte: what was asked is read all the same.
        upstream.script(faults.silent())
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes("a", "POST", CHAT, body(500), JSON))
            await upstream.until(lambda up: up.requests[-1].method == "POST" and len(up.requests) == 3)
        await gateway.at_rest()
        # And in the middle of a stream.
        upstream.script(faults.stall(STREAM, STREAM.index(b"two")))
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes("a", "POST", CHAT, body(500), JSON))
            await client.until_body()
        await gateway.at_rest()
        lines = [line for line in await gateway.lines(4) if line["method"] == "POST"]
    assert [line["outcome"] for line in lines] == ["truncated", "client_gone", "client_gone"]
    assert [line["usage"] for line in lines] == ["estimated"] * 3
    assert [line["tokens_in"] for line in lines] == [100] * 3
    assert [line["tokens_out"] for line in lines[:2]] == [3, 0]
    assert lines[2]["tokens_out"] in (1, 2, 3)


async def test_leases_are_given_back_on_every_exit(upstream: FaultyUpstream, tmp_path: Path) -> None:
    rules = (rule("user", concurrency=1),)
    timeouts = {"connect_s": 0.3, "first_byte_s": 0.2, "chunk_s": 0.2}
    quick = LimitSettings(queue_size=0)
    answers = (
        faults.status(500),
        faults.silent(),
        faults.stall(STREAM, STREAM.index(b"two")),
        faults.raw(b"no HTTP at all\r\n\r\n"),
        faults.raw(STREAM),
    )
    async with inside(upstream.url, tmp_path, limit_rules=rules, timeouts=timeouts, limits=quick) as gateway:
        for answer in answers:
            upstream.script(answer)
            assert (await ask(gateway)).status != 429
        async with Downstream(gateway.url) as client:
            upstream.script(faults.silent())
            await client.send(request_bytes("a", "POST", CHAT, body(), JSON))
            await gateway.until(lambda: gateway.slots == 1)
            refused = await ask_beside(gateway)
            assert refused.status == 429
            assert "1 at a time" in refused.json()["error"]["message"]
        await gateway.at_rest()
        upstream.script(faults.chat("x"))
        assert (await ask(gateway)).status == 200


async def ask_beside(gateway: Inside, max_tokens: int | None = 10) -> Answer:
    """A request while others run."""
    async with Downstream(gateway.url) as client:
        return await client.ask("POST", CHAT, body(max_tokens), JSON)


async def test_who_waits_goes_on_when_a_lease_ends(upstream: FaultyUpstream, tmp_path: Path) -> None:
    rules = (rule(name="all", concurrency=2),)
    gate = asyncio.Event()
    upstream.script(*[faults.held(gate, faults.chat("x"))] * 2)
    async with inside(upstream.url, tmp_path, limit_rules=rules, limits=LimitSettings(queue_size=3)) as gateway:
        asked = [asyncio.create_task(ask_beside(gateway)) for _ in range(5)]
        await gateway.until(lambda: gateway.in_flight == 5 and gateway.slots == 2)
        full = await ask_beside(gateway)
        # Too much for everybody is the gateway's trouble.
        assert (full.status, full.json()["error"]["code"]) == (503, "overloaded")
        assert "3 are waiting" in full.json()["error"]["message"]
        # One that waits leaves: nothing of it stays.
        asked.pop().cancel()
        await gateway.until(lambda: gateway.in_flight == 4)
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 4
        await gateway.at_rest()
    assert len(upstream.requests) == 4


async def test_waiting_has_an_end(upstream: FaultyUpstream, tmp_path: Path) -> None:
    upstream.script(faults.silent())
    rules = (rule("user", concurrency=1),)
    async with inside(upstream.url, tmp_path, limit_rules=rules, limits=LimitSettings(queue_timeout_s=0.1)) as gateway:
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes("a", "POST", CHAT, body(), JSON))
            await gateway.until(lambda: gateway.slots == 1)
            late = await ask_beside(gateway)
        assert (late.status, late.header("retry-after")) == (429, "2")
        assert "waited 0.1 s" in late.json()["error"]["message"]


async def test_a_budget_ends_with_429_and_is_settled_by_the_cost(upstream: FaultyUpstream, tmp_path: Path) -> None:
    rules = (rule("user", name="money", budget_usd=0.010, budget_period="day"),)
    prices = (ModelPrice("de*", input=1000.0, output=1000.0, cached=0.0),)  # 4 tokens an answer: 0.4 cents
    async with inside(upstream.url, tmp_path, limit_rules=rules, prices=prices) as gateway:
        # 110 tokens would be 11 cents; a guess takes no more than the whole budget, and only all of it.
        assert (await ask(gateway)).status == 200
        answer = await ask(gateway)
        assert answer.status == 429
        assert answer.json()["error"]["type"] == answer.json()["error"]["code"] == "insufficient_quota"
        assert "$0.01 a day" in answer.json()["error"]["message"]
        assert answer.header("x-should-retry") == "false"
        assert 0 < int(answer.header("retry-after") or 0) <= DAY + 1
        line = (await gateway.lines(2))[0]
        assert (line["cost_usd"], line["tokens_out"], line["tokens_reasoning"]) == (0.004, 1, 0)


async def test_the_gateways_own_paths_and_clients_have_nothing_to_do_with_each_other(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("budgateway.process.embedded.resident", lambda pid: 0)  # reads a file
    rules = (LimitRule(name="addresses", by=("address",), allowance=Allowance(requests_per_hour=60, burst=3)),)
    options: dict[str, Any] = {"rate_limit": RateLimit(60, 3), "limit_rules": rules}
    own = ("/livez", "/readyz", "/health", "/metrics")
    async with inside(upstream.url, tmp_path, path="/v1/*", **options) as gateway, Downstream(gateway.url) as client:
        for path in own:
            answers = [await client.ask("GET", path) for _ in range(40)]
            assert {answer.status for answer in answers} == {200}, path
            assert all("ratelimit" not in name for answer in answers for name, _ in answer.headers)
        for method, path, status in (
            ("POST", "/livez", 405),
            ("GET", "/admin/stats", 401),
            ("GET", "/admin/nothing", 401),
        ):
            assert {(await client.ask(method, path)).status for _ in range(40)} == {status}, path
        # None of this was a client's, and a client who has used up its own leaves all of it to probes.
        assert [(await ask(gateway)).status for _ in range(4)] == [200, 200, 200, 429]
        assert (await client.ask("GET", "/nowhere")).status == 429
        for path in own:
            assert (await client.ask("GET", path)).status == 200


async def test_the_gateways_own_paths_have_bounds(upstream: FaultyUpstream, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("budgateway.limits.rules._OWN_RATES", {"open": (60, 5), "metrics": (60, 4), "admin": (60, 3)})
    monkeypatch.setattr("budgateway.process.embedded.resident", lambda pid: 0)  # reads a file
    async with inside(upstream.url, tmp_path, path="/v1/*") as gateway, Downstream(gateway.url) as client:
        probes = [await client.ask("GET", path) for path in ("/livez", "/readyz", "/health") * 2]
        assert [answer.status for answer in probes] == [200] * 5 + [429]
        assert "own paths" in probes[-1].json()["error"]["message"]
        assert [(await client.ask("GET", "/metrics")).status for _ in range(5)] == [200] * 4 + [429]
        assert [(await client.ask("GET", "/admin/stats")).status for _ in range(4)] == [401] * 3 + [429]
        assert (await ask(gateway)).status == 200


async def test_the_metrics_listener_has_bounds(upstream: FaultyUpstream, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("budgateway.admin.handler.BURST", 5)
    monkeypatch.setattr("budgateway.admin.handler.PER_MINUTE", 60)
    monkeypatch.setattr("budgateway.process.embedded.resident", lambda pid: 0)  # reads a file
    options = {"metrics_enabled": True, "metrics_port": free_port(), "rate_limit": RateLimit(60, 1)}
    async with inside(upstream.url, tmp_path, path="/v1/*", **options) as gateway:
        async with Downstream(f"http://127.0.0.1:{options['metrics_port']}") as client:
            answers = [await client.ask("GET", path) for path in ("/metrics", "/livez") * 3]
        assert [answer.status for answer in answers] == [200] * 5 + [429]
        assert answers[-1].header("retry-after") == "1"
        assert (await ask(gateway)).status == 200


async def test_the_old_limits_work_as_they_did(upstream: FaultyUpstream, tmp_path: Path) -> None:
    options: dict[str, Any] = {"route": {"rate_limit": 60, "rate_burst": 2}, "rate_limit": RateLimit(60, 4)}
    async with inside(upstream.url, tmp_path, path="/v1/*", **options) as gateway:
        answers = [await ask(gateway) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert "the limit of route 'r', 60 requests a minute, 2 at once" in answers[2].json()["error"]["message"]
        # The third was given back; what finds no route counts, and is told so when it is too much.
        async with Downstream(gateway.url) as client:
            unrouted = [await client.ask("GET", "/nowhere") for _ in range(3)]
        assert [answer.status for answer in unrouted] == [404, 404, 429]
        assert "the gateway's limit of 60 requests a minute, 4 at once" in unrouted[2].json()["error"]["message"]
