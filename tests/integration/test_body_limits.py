"""Body limits: a route has its own say, above and below the gateway's."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from budgateway.demo import DemoServer
from tests.integration.inside import inside

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("gateways", "routes", "expected"), [(1000, 10_000, 200), (10_000, 1000, 413), (1000, 1000, 413)]
)
async def test_the_routes_limit_is_the_one_that_counts(
    gateways: int, routes: int, expected: int, tmp_path: Path
) -> None:
    question = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "x" * 5000}]})
    async with (
        DemoServer(token_delay_s=0) as demo,
        inside(demo.url, tmp_path, route={"max_body_bytes": routes}, max_body_bytes=gateways) as gateway,
        httpx.AsyncClient() as client,
    ):
        answer = await client.post(
            f"{gateway.url}/v1/chat/completions", content=question, headers={"content-type": "application/json"}
        )
        assert answer.status_code == expected
