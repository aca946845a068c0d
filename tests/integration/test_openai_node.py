"""The official OpenAI client for JavaScript, changed in its baseURL alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "node"
NODE, NPM = shutil.which("node"), shutil.which("npm")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.peers,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not (NODE and NPM), reason="no node and npm on this machine"),
]

SAID = 'You said: "hello there". I am the demo model: I only repeat, but I stream, count tokens and never tire.'


@pytest.fixture(scope="session")
def modules() -> Path:
    """Where npm put the locked packages: a folder that outlives the run, by the lock's content."""
    lock = (HERE / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "budgateway"
    folder = cache / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not (folder / "node_modules").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as fresh:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, fresh)
            words = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
            done = subprocess.run(words, cwd=fresh, capture_output=True, timeout=150)
            if done.returncode:
                pytest.skip(f"npm ci failed: {done.stderr.decode(errors='replace').strip()[:300]}")
            shutil.copytree(fresh, folder, dirs_exist_ok=True, symlinks=True)
    return folder


def test_an_application_in_javascript(base_url: str, modules: Path) -> None:
    env = {"PATH": os.environ["PATH"], "BASE_URL": base_url, "MODULES": str(modules)}
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
