"""The official OpenAI client for JavaScript, changed in its baseURL alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1] / "node"
NODE = shutil.which("node")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.peers,
    pytest.mark.skipif(NODE is None, reason="no node on this machine"),
    pytest.mark.skipif(not (HERE / "node_modules").is_dir(), reason="no openai package for node: run `make peers`"),
]

SAID = 'You said: "hello there". I am the demo model: I only repeat, but I stream, count tokens and never tire.'


def test_an_application_in_javascript(base_url: str) -> None:
    env = {"PATH": os.environ["PATH"], "BASE_URL": base_url}
    done = subprocess.run(["node", HERE / "client.mjs"], env=env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    told = json.loads(done.stdout)
    assert told["chat"] == told["streamed"] == told["response"] == SAID
    assert told["usage"]["completion_tokens"] > 10
    assert told["call"]["name"] == "get_weather"
    assert json.loads(told["call"]["arguments"]) == {"city": "Paris"}
    assert told["embedding"] == 8
    assert {"demo", "demo-embed"} <= set(told["models"])
    assert told["heard"] == "I heard 70000 bytes of a.wav."
    assert told["error"] == ["NotFoundError", 404, "model_not_found"]
    assert told["afterwards"] is True
