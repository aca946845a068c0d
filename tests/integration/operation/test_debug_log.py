"""The log at level DEBUG: one line tells who asked, what was decided, and each attempt."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON
from integration.inside import inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.records import Allowance, LimitRule

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

BODY = b'{"model":"demo","messages":[{"role":"user","content":"planted"}]}'


async def test_a_request_is_explained_in_one_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "budgateway.exchange")
    rule = LimitRule("each", ("address",), Allowance(requests_per_minute=60, burst=60))
    async with FaultyUpstream(faults.status(503)) as busy, FaultyUpstream(faults.chat()) as upstream:
        options = {"log_level": "DEBUG", "limit_rules": (rule,), "path": "/v1/*"}
        async with inside([busy.url, upstream.url], tmp_path, **options) as gateway:
            while not busy.requests:
                caplog.clear()
                async with Downstream(gateway.url) as client:
                    headers = [*JSON, ("x-request-id", "mine"), ("authorization", "Bearer planted")]
                    await client.send(request_bytes("a", "POST", CHAT + "?key=planted", BODY, headers))
                    assert (await client.answer()).status == 200
            served = gateway.plane.fastpath.native.served() if gateway.plane.fastpath else 0
            (line,) = [record.getMessage() for record in caplog.records if record.name == "budgateway.exchange"]
            async with Downstream(gateway.url) as client:
                await client.send(request_bytes("a", "POST", "/nowhere", BODY, JSON))
                await client.answer()
            refused = caplog.records[-1].getMessage()
    assert served == 0  # every request is explained
    pattern = (
        r"exchange mine: POST /v1/chat/completions; by nobody known, 127\.0\.0\.1; route 'r': /v1/\*; model 'demo'; "
        r"limits: \d+ requests left, all of them in \d+ s; provider 'p', round_robin; "
        r"attempt 1: p/0 at [\d.]+ ms, sent after [\d.]+ ms, [\d.]+ ms, given up: pressure 503; "
        r"attempt 2: p/1 at [\d.]+ ms, sent after [\d.]+ ms, [\d.]+ ms; "
        r"complete 200 in [\d.]+ ms, of which \d+ us ours"
    )
    assert re.fullmatch(pattern, line), line
    assert re.search(r"POST /nowhere; by .*; no route; refused 404 \(route_not_found\) in", refused), refused
    assert "planted" not in caplog.text


async def test_nothing_is_explained_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, inside(upstream.url, tmp_path) as gateway:
        async with Downstream(gateway.url) as client:
            await client.send(request_bytes("a", "POST", CHAT, BODY, JSON))
            assert (await client.answer()).status == 200
    assert [record for record in caplog.records if record.name == "budgateway.exchange"] == []
