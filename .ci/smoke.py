"""Start `budgateway serve --demo` from this interpreter's environment, ask it plainly and streamed, stop it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

START_S = 20.0
STOP_S = 10.0


def main() -> int:
    """Exit 0 when the gateway answered both ways and ended by itself on SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("budgateway")), "serve", "--demo", "--host", "127.0.0.1"]
    # Another gateway on this machine may have the metrics port.
    gateway = subprocess.Popen([*command, "--port", str(port)], env={**os.environ, "METRICS_PORT": "0"})
    try:
        wait_until_ready(base, gateway)
        model = json.loads(ask(f"{base}/v1/models"))["data"][0]["id"]
        chat: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
        answer = json.loads(ask(f"{base}/v1/chat/completions", chat))
        assert answer["choices"][0]["message"]["content"], answer
        stream = ask(f"{base}/v1/chat/completions", {**chat, "stream": True})
        assert stream.count(b"data: ") > 2, stream
        assert stream.rstrip().endswith(b"data: [DONE]"), stream
    finally:
        gateway.send_signal(signal.SIGTERM)
        status = gateway.wait(STOP_S)
    print(f"smoke: plain and streamed answers from {model}, exit status {status}")
    return status


def ask(url: str, body: dict[str, Any] | None = None) -> bytes:
    """The body of the answer to a GET, or to a POST of JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as response:
        content: bytes = response.read()
        return content


def wait_until_ready(base: str, gateway: subprocess.Popen[bytes]) -> None:
    """Return once /readyz says so; fail when the process ends or the time is up."""
    deadline = time.monotonic() + START_S
    while gateway.poll() is None and time.monotonic() < deadline:
        try:
            ask(f"{base}/readyz")
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"the gateway did not become ready in {START_S} s (exit status {gateway.poll()})")


if __name__ == "__main__":
    sys.exit(main())
