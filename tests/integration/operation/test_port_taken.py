"""A second gateway on a port that one listens on does not start: it would silently take part of the traffic."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from integration.gateways import gateway, write_configuration
from ports import free_port

from budgateway.process.embedded import Gateway
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


@pytest.mark.integration
def test_an_access_log_that_cannot_be_opened_is_a_line(tmp_path: Path) -> None:
    settings = {"access_log": "/proc/access.log", "workers": 1}
    write_configuration(tmp_path, free_port(), [UPSTREAM], "openai", {}, {}, settings, ("/v1/*",), "")
    command = [sys.executable, "-m", "budgateway", "serve", "--config", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "cannot serve: [Errno 2] No such file or directory: '/proc/access.log'" in done.stderr
    assert "Traceback" not in done.stderr


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
