"""A route's fallbacks: other providers, other models, when its own provider fails."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway import Gateway, load_config

pytestmark = pytest.mark.integration
CHAT = "/v1/chat/completions"
BODY = b'{"model":"big","messages":[]}'
JSON = [("Content-Type", "application/json")]
TOML = """
[gateway]
host = "127.0.0.1"
port = 0
access_log = "off"
[metrics]
enabled = false
[providers.first]
kind = "openai"
endpoints = ["%s"]
health_check_enabled = false
[providers.spare]
kind = "openai"
endpoints = ["%s"]
health_check_enabled = false
[[routes]]
path = "/v1/*"
provider = "first"
auth_required = false
fallback = [{ provider = "spare", model = "small" }]
fallback_on = ["error", "429", "5xx", "context_length"]
"""


@pytest.mark.parametrize("fault", ["503", "nobody", "context"])
async def test_another_provider_answers_under_the_name_that_was_asked_for(fault: str, tmp_path: Path) -> None:
    too_long = {"error": {"message": "maximum context length is 10", "code": "context_length_exceeded"}}
    bad = faults.status(400, body=too_long) if fault == "context" else faults.status(503)
    async with FaultyUpstream(bad) as first, FaultyUpstream(faults.chat("from the other")) as second:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}" if fault == "nobody" else first.url
            (tmp_path / "gateway.toml").write_text(TOML % (url, second.url))
            settings = await asyncio.to_thread(load_config, tmp_path / "gateway.toml", environ={})
            async with (
                Gateway(settings) as gateway,
                Downstream(gateway.url) as client,
            ):
                answer = await client.ask("POST", CHAT, BODY, JSON)
        assert answer.status == 200
        assert answer.json()["model"] == "big"
        assert answer.header("x-budgateway-attempts") == "2"
        assert [json.loads(request.body)["model"] for request in second.requests] == ["small"]


async def test_a_limit_is_not_got_around(tmp_path: Path) -> None:
    """503 of a limit that everybody shares is no upstream that cannot be had."""
    rule = '[rate_limiting]\nqueue_size = 0\n[[rate_limiting.rules]]\nby = "global"\nconcurrency = 1\n'
    async with FaultyUpstream(faults.silent()) as first, FaultyUpstream(faults.chat("from the other")) as second:
        (tmp_path / "gateway.toml").write_text(TOML % (first.url, second.url) + rule)
        settings = await asyncio.to_thread(load_config, tmp_path / "gateway.toml", environ={})
        async with (
            Gateway(settings) as gateway,
            Downstream(gateway.url) as holder,
            Downstream(gateway.url) as client,
        ):
            await holder.send(request_bytes("a", "POST", CHAT, BODY, JSON))
            await first.until(lambda upstream: len(upstream.requests) == 1)
            answer = await client.ask("POST", CHAT, BODY, JSON)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "overloaded")
        assert not second.requests
