"""The configuration of `serve --demo`: /v1 goes to the embedded model server, for anyone on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from budgateway.config.endpoint import parse_endpoint
from budgateway.config.source import Source
from budgateway.records import Settings

DEMO_HOST = "127.0.0.1"
# A placeholder until the demo server has a port.
DEMO_URL = "http://127.0.0.1:8001"
# The variables that a demo uses: address, workers, logs and metrics, never upstreams or keys.
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
    """Return the settings for a gateway in front of the demo server at `demo_url`: loopback and port 8080 by default.

    Raises ConfigError, as load_config does.
    """
    # Imported here, because the supervisor imports this module without the schema.
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
    """Return the demo settings with the demo server's actual address."""
    provider = replace(settings.providers[0], upstreams=(parse_endpoint(demo_url),))
    return replace(settings, providers=(provider,))
