"""The configuration of `serve --demo`: everything under /v1 to the embedded model server, for anyone on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from budgateway.config.endpoint import parse_endpoint
from budgateway.config.source import Source
from budgateway.records import Settings

DEMO_HOST = "127.0.0.1"
# Stands for the demo server's address until it has taken a port.
DEMO_URL = "http://127.0.0.1:8001"
# What of the environment a demo heeds: where to listen and how, never anybody's upstreams or keys.
HEEDED = ("GATEWAY_HOST", "GATEWAY_PORT", "WORKERS", "LOG_LEVEL", "ENABLE_METRICS", "METRICS_PORT")


def demo_settings(
    demo_url: str = DEMO_URL,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    *,
    log_level: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Settings for a gateway in front of the demo server at `demo_url`: loopback and port 8080 unless told otherwise.

    Raises ConfigError, as load_config does.
    """
    # The supervisor knows this module, and not the schema.
    from budgateway.config import environment
    from budgateway.config.assemble import settings_from

    if environ is None:
        environ = environment.variables(Path(".env"))
    source = Source(
        tables={
            "gateway": {"host": DEMO_HOST},
            "providers": {"demo": {"kind": "openai", "endpoints": [demo_url], "models": ["demo"]}},
            "routes": [
                {
                    "name": "demo",
                    "path": "/v1/*",
                    "provider": "demo",
                    "auth_required": False,
                    "load_balancer": "least_connections",
                }
            ],
        },
        places={(): "demo"},
    )
    for key, value in (("host", host), ("port", port), ("workers", workers), ("log_level", log_level)):
        if value is not None:
            source.override("gateway", key, value, f"--{key.replace('_', '-')}")
    heeded = {name: environ[name] for name in HEEDED if name in environ}
    if isinstance(environ, environment.Variables):
        heeded = environment.Variables(heeded, environ.file, environ.written)
    return settings_from(source, heeded)


def moved(settings: Settings, demo_url: str) -> Settings:
    """Demo settings once the demo server's address is known."""
    provider = replace(settings.providers[0], upstreams=(parse_endpoint(demo_url),))
    return replace(settings, providers=(provider,))
