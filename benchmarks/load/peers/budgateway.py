"""budgateway: everything switched on that a careful operator would have on."""

from __future__ import annotations

import importlib.util
import subprocess
from typing import ClassVar

from benchmarks.load.peers.base import MODEL, PATH, Launch, Peer, own_python

CONFIG = """
[gateway]
host = "127.0.0.1"
port = {port}
workers = 1
max_connections = 20000
access_log = "{folder}/access.jsonl"

# No port of its own: GET /metrics of the gateway answers.
[metrics]
enabled = true
port = 0

# A limit that counts every request and is never hit.
[rate_limiting]
enabled = true
requests_per_minute = 1_000_000_000
burst_capacity = 1_000_000

[[routes]]
path = "{path}"
method = "POST"
models = ["{model}"]
provider = "vllm"
load_balancer = "least_connections"
auth_required = false

[providers.vllm]
endpoints = [{{ url = "{upstream}", weight = 1 }}]
"""


class Budgateway(Peer):
    """One worker; routed by model, limited, balanced, measured and logged."""

    name: ClassVar[str] = "budgateway"
    does: ClassVar[str] = (
        "routes by model (validates the JSON), rate limit, least connections, metrics, access log to a file, request id"
    )

    def installed(self) -> bool:
        return importlib.util.find_spec("budgateway.__main__") is not None

    def version(self) -> str:
        """With what makes a figure a lie: a debug build, interpreted protocols."""
        command = [own_python(), "-m", "budgateway", "version"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return ", ".join(" ".join(line.split()) for line in lines).removeprefix("budgateway ")

    def command(self, launch: Launch) -> list[str]:
        text = CONFIG.format(port=launch.port, folder=launch.folder, path=PATH, model=MODEL, upstream=launch.upstream)
        launch.write("config/gateway.toml", text)
        return [own_python(), "-m", "budgateway", "serve", "--config", str(launch.folder / "config")]
