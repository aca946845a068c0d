"""A real Prometheus scrapes a gateway under traffic: every panel of the dashboards and every recording rule has a value."""

from __future__ import annotations

import asyncio
import json
import math
import runpy
import shutil
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON
from integration.gateways import gateway_async
from integration.processes import Server
from ports import free_port
from upstreams import faults
from upstreams.engine import Engine

pytestmark = [pytest.mark.integration, pytest.mark.peers, pytest.mark.slow]
LOOPS = ("uvloop",)

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
VARIABLES = {"$job": ".*", "$instance": ".*", "$route": ".*", "$model": ".*", "$__rate_interval": "30s"}
STREAM = faults.stream_bytes(faults.chat_events("one", "two", "three"))
CHATS = json.dumps({"model": "demo", "messages": []}).encode()
STREAMS = json.dumps({"model": "demo", "messages": [], "stream": True}).encode()
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}


async def traffic(gateway: Server, engine: Engine) -> None:
    """Answers, streams, failures and refusals, several at a time."""
    whole = faults.json_bytes({"choices": [{"message": {"content": "x"}}], "usage": USAGE})
    for number in range(10_000):
        engine.chat = faults.status(503) if number % 5 == 4 else faults.slow_head(0.01, faults.raw(whole))
        if number % 2:
            engine.chat = faults.raw(STREAM)
        body = STREAMS if number % 2 else CHATS
        await asyncio.gather(*(ask(gateway, body, CHAT) for _ in range(4)), ask(gateway, CHATS, "/nowhere"))
        await asyncio.sleep(0.02)


async def ask(gateway: Server, body: bytes, path: str) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes("a", "POST", path, body, JSON))
        await client.answer()


def query(port: int, text: str) -> list[dict[str, Any]]:
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": text})
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return [series for series in found if not math.isnan(float(series["value"][1]))]


def questions() -> dict[str, str]:
    """Every expression of the dashboards and of the recording rules, by its place."""
    files = runpy.run_path(str(DEPLOY / "generate.py"))["files"]()
    found = {}
    for name, text in files.items():
        for panel in json.loads(text)["panels"] if name.endswith(".json") else ():
            for target in panel["targets"]:
                expr = target["expr"]
                for variable, value in VARIABLES.items():
                    expr = expr.replace(variable, value)
                found[f"{name}: {panel['title']} {target['refId']}"] = expr
    for rule in yaml.safe_load(files["prometheus/rules/recording.yml"])["groups"][0]["rules"]:
        found[rule["record"]] = rule["record"]
    return found


async def test_every_panel_and_every_rule_has_a_value(tmp_path: Path) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus (Debian: prometheus)")
    metrics, own = free_port(), free_port()
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{metrics}"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    wanted = questions()
    async with Engine("demo") as one, Engine("demo") as other:
        env = {"ENABLE_METRICS": "true", "METRICS_PORT": str(metrics), "ENABLE_REQUEST_TRACING": "true"}
        options: dict[str, Any] = {
            "kind": "vllm", "paths": ["/v1/*"], "route": {"load_balancer": "least_load"}, "env": env,
            "provider": {"max_in_flight": 1, "health_check_enabled": True, "health_check_interval": 1},
            "extra": "[prices.models]\ndemo = { input = 1.0, output = 2.0 }\n",
        }  # fmt: skip
        async with gateway_async([one.url, other.url], **options) as gateway:
            server = await asyncio.create_subprocess_exec(
                program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{own}", stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            running = asyncio.create_task(traffic(gateway, one))
            try:
                missing = wanted
                deadline = asyncio.get_running_loop().time() + 45
                while missing and asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(1)
                    try:
                        answers = [
                            (place, await asyncio.to_thread(query, own, text)) for place, text in missing.items()
                        ]
                    except OSError:
                        continue  # it is still starting
                    missing = {place: wanted[place] for place, series in answers if not series}
                firing = await asyncio.to_thread(query, own, 'up{job="budgateway"} == 1')
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                server.terminate()
                await server.wait()
    assert missing == {}
    assert firing
