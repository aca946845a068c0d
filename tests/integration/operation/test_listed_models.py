"""Labels of models in metrics: what a probed upstream lists has its own, what a client makes up has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON
from integration.inside import inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.native import Metrics
from budgateway.records import HealthCheck

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)


async def listing(peer: Peer, request: Received) -> None:
    models = {"object": "list", "data": [{"id": "demo", "object": "model"}]}
    await peer.send(faults.json_bytes(models) if request.method == "GET" else faults.chat_bytes())


async def test_listed_models_have_labels_and_others_none(tmp_path: Path) -> None:
    check = HealthCheck(path="/v1/models", interval_s=0.05)
    async with FaultyUpstream(listing) as upstream:
        provider = {"health_check": check, "strip_model_prefix": "p/"}
        async with inside(upstream.url, tmp_path, provider=provider) as gateway:
            segment = gateway.gateway._segment
            await gateway.until(lambda: dict(segment.models()).keys() == {"demo", "p/demo"}, "the list")
            await gateway.until(lambda: gateway.plane._models_version == segment.models_version, "the worker's labels")
            # `r` is a route, `p` a provider: known names, but not of models.
            for model in ("demo", "p/demo", "made-up", "r", "p"):
                async with Downstream(gateway.url) as client:
                    body = b'{"model":"%s","messages":[]}' % model.encode()
                    await client.send(request_bytes("a", "POST", CHAT, body, JSON))
                    assert (await client.answer()).status == 200
            # A reload keeps them.
            gateway.plane.commit(gateway.plane.prepare(gateway.gateway.settings))
            async with Downstream(gateway.url) as client:
                await client.send(request_bytes("a", "POST", CHAT, b'{"model":"demo","messages":[]}', JSON))
                assert (await client.answer()).status == 200
            counts = {series.model: series.count for series in Metrics(segment).collect()}
    assert counts == {"demo": 2, "p/demo": 1, "other": 3}
