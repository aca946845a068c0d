"""Body limits: a route has its own say, above and below the gateway's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from downstream import Downstream
from integration.inside import inside

from budgateway.demo import DemoServer

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("gateways", "routes", "expected"), [(1000, 10_000, 200), (10_000, 1000, 413), (1000, 1000, 413)]
)
async def test_the_routes_limit_is_the_one_that_counts(
    gateways: int, routes: int, expected: int, tmp_path: Path
) -> None:
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "x" * 5000}]}).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    async with (
        DemoServer(token_delay_s=0) as demo,
        inside(demo.url, tmp_path, route={"max_body_bytes": routes}, max_body_bytes=gateways) as gateway,
        Downstream(gateway.url) as client,
    ):
        await client.send(head % len(body) + body)
        assert (await client.answer()).status == expected
