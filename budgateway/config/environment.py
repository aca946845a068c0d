"""The environment: which variable sets which key, and the providers that variables alone describe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from budgateway.config.schema_shaping import leads_to
from budgateway.config.source import Source
from budgateway.errors import ConfigError

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})

# variable -> (table, key, how to read it)
VARIABLES: dict[str, tuple[str, str, str]] = {
    "GATEWAY_HOST": ("gateway", "host", "text"),
    "GATEWAY_PORT": ("gateway", "port", "int"),
    "WORKERS": ("gateway", "workers", "int"),
    "LOG_LEVEL": ("gateway", "log_level", "text"),
    "REDIS_URL": ("redis", "url", "text"),
    "REDIS_POOL_SIZE": ("redis", "pool_size", "int"),
    "JWT_EXPIRATION": ("auth", "jwt_expiration", "int"),
    "ENABLE_METRICS": ("metrics", "enabled", "bool"),
    "METRICS_PORT": ("metrics", "port", "int"),
    "ENABLE_TRACING": ("tracing", "enabled", "bool"),
    "JAEGER_ENDPOINT": ("tracing", "endpoint", "text"),
    "ENABLE_REQUEST_TRACING": ("tracing", "requests", "bool"),
}
JWT_SECRET = "JWT_SECRET"
# provider -> the variable with its endpoints; the first one set is the default provider.
ENDPOINTS = {"vllm": "VLLM_ENDPOINTS", "sglang": "SGLANG_ENDPOINTS", "litellm": "LITELLM_ENDPOINT"}
# provider -> the variable with its key.
KEYS = {
    "vllm": "VLLM_API_KEY",
    "sglang": "SGLANG_API_KEY",
    "litellm": "LITELLM_API_KEY",
    "openai": "OPENAI_API_KEY",
}
OPENAI_HOST = "api.openai.com"
OPENAI_URL = f"https://{OPENAI_HOST}"


def variables(dotenv: Path) -> dict[str, str]:
    """The process's environment over what `.env` says. Values of `.env` are taken as they are, `$` included.

    Raises ConfigError for one that is there and cannot be read.
    """
    try:
        written = dotenv_values(dotenv, interpolate=False) if dotenv.is_file() else {}
    except OSError as error:
        raise ConfigError([f"{dotenv}: {(error.strerror or 'cannot be read').lower()}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{dotenv}: not UTF-8 text"]) from error
    return {**{name: value for name, value in written.items() if value is not None}, **os.environ}


def apply(source: Source, environ: Mapping[str, str]) -> None:
    """Lay the variables over the tables. An empty one counts as unset, as docker compose leaves them."""
    for name, (table, key, kind) in VARIABLES.items():
        if text := environ.get(name, "").strip():
            source.override(table, key, _read(text, kind), f"environment: {name}")
            source.used.append(name)
    if environ.get(JWT_SECRET):
        source.override("auth", "jwt_secret", f"env:{JWT_SECRET}", f"environment: {JWT_SECRET}")
        source.used.append(JWT_SECRET)
    if source.alone:
        source.tables["providers"], source.tables["routes"] = _alone(environ)
    _apply_endpoints(source, environ)


def endpoints(environ: Mapping[str, str], provider: str) -> list[str]:
    """The upstream URLs that a variable gives a provider; empty when it gives none."""
    if provider not in ENDPOINTS:
        return []
    return [url for part in environ.get(ENDPOINTS[provider], "").split(",") if (url := part.strip())]


def described(environ: Mapping[str, str]) -> list[str]:
    """The providers that variables alone describe, the default one first."""
    found = [provider for provider in ENDPOINTS if endpoints(environ, provider)]
    return [*found, "openai"] if environ.get(KEYS["openai"]) else found


def _alone(environ: Mapping[str, str]) -> tuple[dict[str, object], list[object]]:
    """Providers and routes for the variables alone: everything under /v1 goes to the first provider; when there are
    several, `name/model` goes to the one named, and loses its prefix on the way. Without JWT_SECRET nobody could be let
    in, so anyone is; the listener is then kept to this machine."""
    names = described(environ)
    several = len(names) > 1
    providers: dict[str, object] = {name: {"strip_model_prefix": f"{name}/"} if several else {} for name in names}
    routes: list[object] = [
        {
            "name": name,
            "path": "/v1/*",
            "provider": name,
            "load_balancer": "least_connections",
            "auth_required": bool(environ.get(JWT_SECRET)),
            "models": [f"{name}/*"] if name != names[0] else [],
        }
        for name in names
    ]
    if "openai" in names:
        # The realtime API is a WebSocket of its own.
        routes.append(
            {
                "name": "realtime",
                "path": "/v1/realtime",
                "provider": "openai",
                "auth_required": bool(environ.get(JWT_SECRET)),
                "websocket": True,
            }
        )
    return providers, routes


def _apply_endpoints(source: Source, environ: Mapping[str, str]) -> None:
    """A variable gives endpoints to the provider of its name; a provider that only a route names comes into being."""
    tables, routes = source.tables.get("providers", {}), source.tables.get("routes", [])
    if not isinstance(tables, dict) or not isinstance(routes, list):
        return
    tables = dict(tables)
    routed = [name for route in routes if isinstance(route, dict) for name in leads_to(route)]
    for name in described(environ):
        variable = ENDPOINTS.get(name, KEYS["openai"])
        if name not in tables and name not in routed:
            # OPENAI_API_KEY is on many machines for other reasons; the others are meant for us.
            if name in ENDPOINTS and not source.incomplete:
                source.notices.append(f"{variable} has no effect: no route goes to provider {name!r}")
            continue
        table = tables.setdefault(name, {})
        if isinstance(table, dict) and (urls := endpoints(environ, name)):
            tables[name] = {**table, "endpoints": [{"url": url} for url in urls]}
            source.variables["providers", name, "endpoints"] = f"environment: {variable}"
        if name in ENDPOINTS or source.alone:
            source.used.append(variable)
    if tables:
        source.tables["providers"] = tables


def _read(text: str, kind: str) -> object:
    """A variable's text as the type of its key; what does not fit stays text and fails in the schema, with its place."""
    if kind == "int":
        digits = text.removeprefix("-")
        return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else text
    if kind == "bool":
        lowered = text.lower()
        return True if lowered in TRUE else False if lowered in FALSE else text
    return text
