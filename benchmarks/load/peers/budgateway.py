"""budgateway: everything switched on that a careful operator would have on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from typing import ClassVar

from benchmarks.load.peers.base import Launch, Peer, own_python
from benchmarks.load.setups import MODEL, PATH

CONFIG = """
[gateway]
host = "127.0.0.1"
port = {port}
workers = 1
max_connections = 20000
access_log = "{folder}/access.jsonl"
{gateway}
# No port of its own: GET /metrics of the gateway answers.
[metrics]
enabled = true
port = 0

# A limit that counts every request and is never hit.
[rate_limiting]
enabled = true
requests_per_minute = 1_000_000_000
burst_capacity = 1_000_000
{tables}
[[routes]]
path = "{path}"
method = "POST"
models = {models}
provider = "vllm"
load_balancer = "least_connections"
auth_required = {auth_required}

[providers.vllm]
endpoints = [{{ url = "{upstream}", weight = 1 }}]
{provider}
"""

JWT = """
[auth]
jwt_secret = "env:JWT_SECRET"
[[auth.roles]]
name = "chat"
routes = ["{path}"]
"""
PRICES = """
[prices.models]
"*" = {{ input = 0.10, output = 0.40 }}
"""
# Of one rule by user. No limit is ever hit.
LIMITS = {
    "limits": "requests_per_minute = 1_000_000_000\ntokens_per_minute = 1_000_000_000",
    "concurrency": "concurrency = 10_000",
    "budget": 'budget_usd = 1_000_000\nbudget_period = "month"',
}


def configuration(launch: Launch) -> str:
    """The configuration file, with the features of the set-up."""
    setup, features = launch.setup, launch.setup.features
    names = setup.model_names()
    tables = [JWT] if "jwt" in features else []
    if rule := [limit for feature, limit in LIMITS.items() if feature in features]:
        tables.append("\n".join(["[[rate_limiting.rules]]", 'by = "user"', *rule, ""]))
    if "budget" in features:
        tables.append(PRICES)
    aliases = ", ".join(f'"{name}" = "{MODEL}"' for name in names)
    return CONFIG.format(
        port=launch.port,
        folder=launch.folder,
        gateway='trusted_proxies = ["127.0.0.1"]\n' if "proxies" in features else "",
        tables="\n".join(tables).format(path=PATH),
        path=PATH,
        models=json.dumps(names),
        auth_required="true" if "jwt" in features else "false",
        upstream=launch.upstream,
        provider=f"aliases = {{ {aliases} }}" if "alias" in features else "",
    )


class Budgateway(Peer):
    """One worker; routed by model, limited, balanced, measured and logged."""

    name: ClassVar[str] = "budgateway"
    configurable: ClassVar[bool] = True
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
        launch.write("config/gateway.toml", configuration(launch))
        if "jwt" in launch.setup.features:
            launch.environment["JWT_SECRET"] = launch.secret
        return [own_python(), "-m", "budgateway", "serve", "--config", str(launch.folder / "config")]
