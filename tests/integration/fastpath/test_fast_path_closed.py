"""The fast path is closed by default: a field or a stage that it does not know keeps requests on the ordinary path.

Every field of a configuration record and every slot of an exchange stands in one of two sets below. A new one fails the test
until somebody has decided: does the fast path honour it (SAFE), or must it keep requests off (CLOSES, with an example)?
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON
from integration.inside import inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

import budgateway
from budgateway.exchange.cached_plan import NOTHING, Part
from budgateway.exchange.exchange_cy import Exchange
from budgateway.records import (
    Allowance,
    Edit,
    Hedge,
    LimitRule,
    LimitSettings,
    Maintenance,
    Mirror,
    Provider,
    Retries,
    Route,
    Settings,
    TransformRule,
    Upstream,
)

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

TRIES = 5

# Fields that the cached plan carries, that the native half reads itself, or that say nothing about a common request.
SAFE: dict[type, set[str]] = {
    Route: {
        "name", "path", "provider", "host", "methods", "models", "headers", "priority", "load_balancer", "rate_limit",
        "rate_burst", "split", "canary", "pin_by", "auth_required", "timeouts", "max_body_bytes", "replay_safe", "replay_inference", "cache_ttl_s",
        "retries", "stream_keepalive_s", "cors",
    },
    Retries: {"max_attempts", "statuses", "max_retry_after_s", "fallbacks", "fallback_on"},
    Upstream: {"url", "host", "port", "path", "weight", "max_in_flight"},
    Provider: {
        "name", "kind", "upstreams", "label", "api_key", "api_version", "headers", "forward_headers", "models", "aliases", "strip_prefix",
        "strip_model_prefix",
        "stream_usage", "health_check", "slow_start_s", "connect_timeout_s", "keepalive_s", "max_idle", "max_queue",
        "queue_timeout_s", "tls_verify", "tls_ca_file", "tls_ca", "forward_trace", "hold_bytes", "first_event_s",
        "dialects", "translation",  # adapters that translate see every request
    },
    Settings: {
        "host", "port", "workers", "max_connections", "keepalive_s", "head_timeout_s", "max_body_bytes", "drain_s",
        "settle_s", "watch", "cpu_affinity", "spare_worker", "worker_timeout_s", "disclose", "log_level", "access_log",
        "metrics_enabled", "metrics_host", "metrics_port", "tracing", "rate_limit", "limit_rules", "limits", "prices", "breaker",
        "outliers", "panic_percent", "retry_limit", "jwt_secret", "jwt_expiration_s", "auth", "providers", "routes",
        "trusted_proxies", "notices", "sources", "origins", "cors", "files",
    },
    LimitSettings: {"output_tokens", "headers", "state_file", "queue_size", "queue_timeout_s", "ipv6_prefix"},
    LimitRule: {"name", "by", "allowance", "tenants", "roles", "models", "routes"},
    Allowance: {
        "requests_per_minute", "requests_per_hour", "requests_per_day", "burst", "tokens_per_minute", "tokens_per_day",
        "concurrency", "budget_usd", "budget_period",
    },
}  # fmt: skip

# Fields that keep requests off, each with a gateway on which they do.
CLOSES: dict[type, dict[str, dict[str, Any]]] = {
    Route: {
        "websocket": {},  # the route takes handshakes only: test_websocket
        "mirror": {"route": {"mirror": Mirror("/other")}},
        "maintenance": {"route": {"maintenance": Maintenance("closed")}},
    },
    Retries: {"hedge": {"route": {"retries": Retries(hedge=Hedge(after_s=30))}}},
    Upstream: {
        "tls": {},  # test_tls
    },
    Provider: {},
    Settings: {
        "tls": {},  # no native transport: test_tls
        "transforms": {"transforms": (TransformRule("t", request=(Edit("remove", "seed"),)),)},
        "store": {},  # test_shared_limits
    },
    LimitSettings: {},
    LimitRule: {},
    Allowance: {},
}

# An exchange's slots: what the native half sets or has no use for, and what a plan in the cache never had set.
EXCHANGE_SAFE = {
    "head", "downstream", "client", "rename", "pin", "network", "started_ns", "ready_ns", "flags", "request_id", "body", "body_bytes", "body_done",
    "form", "is_head", "resume_at", "step", "snapshot", "principal", "verified", "limit_key", "reservation", "peek", "model",
    "model_label", "route", "destination", "index", "note", "tried", "destination_attempts", "until_ns", "answer_ns", "timer", "began_ns",
    "target", "send_body", "connection", "task", "waiter", "reused", "force_dial", "reported_early", "request_sent", "status",
    "response_flags", "declared_length", "error", "deadline_ns", "progressed", "stalled", "chunked", "sse", "to_close",
    "keep_alive", "head_sent", "closed", "first_byte_ns", "token_ns", "read_ns", "heard", "overhead_ns", "bytes_out",
    "pump", "dialect", "adapter", "held", "hold", "has_terminator", "doubt", "waiting", "waiting_bytes", "last_byte_ns", "document", "primary", "retries", "cors",
}  # fmt: skip
EXCHANGE_CLOSES = {
    "trace", "span", "streams", "attempts", "keeps_usage", "principal_lines", "global_reservation", "handshake", "fallback", "other", "streamed",
    "reply", "tap", "hides_model", "head_edits", "translation", "answer_lines", "transforms",
}  # fmt: skip


@pytest.mark.parametrize("record", list(SAFE), ids=lambda record: record.__name__)
def test_every_field_is_classified(record: type) -> None:
    names = {field.name for field in dataclasses.fields(record)}
    safe, closes = SAFE[record], set(CLOSES[record])
    assert not safe & closes
    assert safe | closes == names, (
        "decide whether the fast path honours these fields, or must leave such requests alone"
    )


def test_every_slot_of_an_exchange_is_classified() -> None:
    declared = (Path(budgateway.__file__).parent / "exchange" / "exchange_cy.pxd").read_text()
    names = set(re.findall(r"^    cdef public (?:unsigned )?(?:long )*\w+ (\w+)", declared, re.MULTILINE))
    assert len(names) > 70
    assert not EXCHANGE_SAFE & EXCHANGE_CLOSES
    assert names == EXCHANGE_SAFE | EXCHANGE_CLOSES


EXAMPLES = {
    f"{record.__name__}.{name}": options
    for record, fields in CLOSES.items()
    for name, options in fields.items()
    if options
}


def ask(**members: Any) -> bytes:
    """A request that the fast path serves, if nothing else stands in the way."""
    body = json.dumps({"model": "demo", "messages": [], **members}).encode()
    return request_bytes("a", "POST", CHAT, body, JSON)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_a_field_that_closes_does(name: str, tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        FaultyUpstream(faults.chat()) as other,
        inside(upstream.url, tmp_path, path="/v1/*", beside={"/other": other.url}, **EXAMPLES[name]) as gateway,
        Downstream(gateway.url) as client,
    ):
        assert gateway.plane.fastpath is not None
        for _ in range(TRIES):
            await client.send(ask())
            await client.answer()
        assert not gateway.plane.fastpath.native.served()


class Counting:
    """A stage that says nothing about the fast path."""

    def __init__(self) -> None:
        self.seen = 0

    def decide(self, x: Exchange) -> None:
        """Count the exchange."""
        self.seen += 1


class Vouching(Counting):
    """A stage with a part for every request."""

    def cached_plan(self, x: Exchange) -> Part | None:
        """Nothing that a later request would need."""
        return NOTHING


class Picky(Counting):
    """A stage with a part for one model only."""

    def cached_plan(self, x: Exchange) -> Part | None:
        """Nothing to do for the model `demo`."""
        return NOTHING if x.model == "demo" else None


async def test_a_stage_without_a_word_about_the_fast_path_sees_every_request(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, path="/v1/*") as gateway,
        Downstream(gateway.url) as client,
    ):
        stage = gateway.plane.snapshot.routes.compiled_routes[0].stages = (Counting(),)
        for number in range(1, TRIES + 1):
            await client.send(ask())
            assert (await client.answer()).status == 200
            assert stage[0].seen == number


async def test_a_stage_with_a_part_does_not(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, path="/v1/*") as gateway,
        Downstream(gateway.url) as client,
    ):
        stage = gateway.plane.snapshot.routes.compiled_routes[0].stages = (Vouching(),)
        for _ in range(TRIES):
            await client.send(ask())
            assert (await client.answer()).status == 200
        assert 1 <= stage[0].seen < TRIES


async def test_a_stage_may_have_a_part_for_some_requests(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, path="/v1/*") as gateway,
        Downstream(gateway.url) as client,
    ):
        assert gateway.plane.fastpath is not None
        stage = gateway.plane.snapshot.routes.compiled_routes[0].stages = (Picky(),)
        for number in range(1, TRIES + 1):
            await client.send(ask(model="other"))
            assert (await client.answer()).status == 200
            assert stage[0].seen == number
        for _ in range(TRIES):
            await client.send(ask())
            assert (await client.answer()).status == 200
        assert stage[0].seen < 2 * TRIES
        assert gateway.plane.fastpath.native.served()


async def test_a_plan_is_for_one_dialect(tmp_path: Path) -> None:
    """The plan of a chat, which passes, does not serve messages, which are translated, on the same route."""
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, tmp_path, path="/v1/*") as gateway,
        Downstream(gateway.url) as client,
    ):
        assert gateway.plane.fastpath is not None
        for _ in range(TRIES):
            await client.send(ask())
            assert (await client.answer()).status == 200
        assert gateway.plane.fastpath.native.served()
        body = {"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
        for _ in range(TRIES):
            await client.send(request_bytes("a", "POST", "/v1/messages", json.dumps(body).encode(), JSON))
            assert (await client.answer()).json()["type"] == "message"
            assert upstream.requests[-1].target == CHAT
