"""A second gateway on a port that one listens on does not start: it would silently take part of the traffic."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from integration.gateways import gateway

from budgateway.gateway import Gateway
from budgateway.records import Provider, Route, Settings, Upstream

# Nobody listens there: the upstream is not asked.
UPSTREAM = "http://127.0.0.1:9"


@pytest.mark.integration
def test_a_second_serve_says_that_the_port_is_taken() -> None:
    with gateway(UPSTREAM) as server:
        port = urlsplit(server.url).port
        command = [sys.executable, "-m", "budgateway", "serve", "--demo", "--host", "127.0.0.1", "--port", str(port)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}: the port is taken" in second.stderr
        assert "give --port" in second.stderr


# Not marked: a gateway that starts may block the loop, as it reads files and makes a folder.
async def test_a_gateway_in_a_program_raises() -> None:
    upstream = Upstream(UPSTREAM, tls=False, host="127.0.0.1", port=9)
    settings = Settings(
        host="127.0.0.1",
        port=0,
        metrics_enabled=False,
        providers=(Provider("openai", "openai", (upstream,)),),
        routes=(Route("all", "/*", "openai", auth_required=False),),
    )
    async with Gateway(settings) as first:
        second = Gateway(replace(settings, port=urlsplit(first.url).port or 0))
        with pytest.raises(OSError, match="the port is taken"):
            await second.start()
