"""A gateway in a process of its own, with a configuration folder written for the test, in front of a given upstream."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from integration.processes import Server, running
from ports import free_port

READY = "/readyz"
CLIENT_KEY = "sk-of-the-client"  # what clients send; no upstream may ever see it

# Everything under /v1, and the demo server's echo for tests of what the gateway sends.
PATHS = ("/v1/*", "/debug/*")


@contextmanager
def gateway(
    upstreams: str | Sequence[str],
    *,
    kind: str = "openai",
    provider: Mapping[str, Any] | None = None,
    route: Mapping[str, Any] | None = None,
    extra: str = "",
    settings: Mapping[str, Any] | None = None,
    paths: Sequence[str] = PATHS,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A ready gateway before these upstream URLs. The mappings add keys to the TOML tables; `extra` is TOML itself."""
    urls = [upstreams] if isinstance(upstreams, str) else list(upstreams)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="budgateway-config-") as folder:
        write_configuration(
            Path(folder), port, urls, kind, dict(provider or {}), dict(route or {}), dict(settings or {}), paths, extra
        )
        command = [sys.executable, "-m", "budgateway", "serve", "--config", folder]
        with running(command, env) as server:
            server.url = f"http://127.0.0.1:{port}"
            server.wait_for(READY)
            yield server


@asynccontextmanager
async def gateway_async(upstreams: str | Sequence[str], **options: Any) -> AsyncIterator[Server]:
    """`gateway` for tests whose upstream lives on the event loop, which therefore must go on running meanwhile."""
    context = gateway(upstreams, **options)
    server = await asyncio.to_thread(context.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


def write_configuration(
    folder: Path,
    port: int,
    urls: Sequence[str],
    kind: str,
    provider: dict[str, Any],
    route: dict[str, Any],
    settings: dict[str, Any],
    paths: Sequence[str],
    extra: str,
) -> None:
    """Write the three files."""
    tables = {
        "gateway.toml": [
            "[gateway]",
            *lines(
                {"host": "127.0.0.1", "port": port, "workers": 1, "drain_timeout": 1.0, "drain_settle": 0.0} | settings
            ),
            "[metrics]",
            *lines({"enabled": False}),
        ],
        "providers.toml": [
            f"[providers.{kind}]",
            # Tests count what upstreams are asked: probes are for those that want them.
            *lines(
                {"kind": kind, "endpoints": [{"url": url} for url in urls], "health_check_enabled": False} | provider
            ),
        ],
        "routes.toml": [
            line
            for path in paths
            for line in ("[[routes]]", *lines({"path": path, "provider": kind, "auth_required": False} | route))
        ],
    }
    tables["gateway.toml"].append(extra)
    for name, content in tables.items():
        (folder / name).write_text("\n".join([*content, ""]))


def lines(table: Mapping[str, Any]) -> list[str]:
    """TOML of a flat table; values are strings, numbers, booleans, lists and inline tables of them."""
    return [f"{key} = {toml(value)}" for key, value in table.items()]


def toml(value: Any) -> str:
    """One value."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)
