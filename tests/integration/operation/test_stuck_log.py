"""Standard output and standard error are one pipe, and its reader has stopped: the gateway serves on, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from integration.gateways import write_configuration
from integration.processes import Server, running, stop
from ports import free_port

CHAT = b'{"model":"demo","messages":[{"role":"user","content":"hi"}]}'


@contextmanager
def _stuck(folder: Path, url: str) -> Iterator[Server]:
    """A gateway whose output goes into a pipe that is full before it starts."""
    port = free_port()
    settings = {"access_log": "stdout", "drain_timeout": 1.0, "log_level": "debug"}
    write_configuration(folder, port, [url], "openai", {}, {}, settings, ("/v1/*",), "")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"." * 512)
    except BlockingIOError:
        os.set_blocking(writing, True)
    env = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-m", "budgateway", "serve", "--config", str(folder)],
        stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, env=env, cwd=folder, start_new_session=True,
    )  # fmt: skip
    server = Server(process, Path(os.devnull), f"http://127.0.0.1:{port}")
    try:
        yield server
    finally:
        stop(process)
        os.close(reading)
        os.close(writing)


def _ask(url: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        status: int = answer.status
        return status


@pytest.mark.integration
def test_a_gateway_whose_log_nobody_reads_starts_serves_reloads_and_ends(tmp_path: Path) -> None:
    with running([sys.executable, "-m", "budgateway.demo", "--port", "0"]) as upstream:
        upstream.wait_for_url()
        with _stuck(tmp_path, upstream.url) as gateway:
            gateway.wait_for("/readyz")
            for number in range(3):
                (tmp_path / "gateway.toml").write_text((tmp_path / "gateway.toml").read_text() + f"# {number}\n")
                gateway.process.send_signal(signal.SIGHUP)
                assert _ask(f"{gateway.url}/v1/chat/completions", CHAT) == 200
                for path in ("/readyz", "/v1/models", "/metrics"):
                    assert _ask(gateway.url + path) == 200
            gateway.process.terminate()
            assert gateway.process.wait(15) == 0
