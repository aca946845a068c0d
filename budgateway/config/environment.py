"""Environment variables: the keys they set, and the providers that variables alone describe."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from budgateway.config.problems import nearest, shown
from budgateway.config.schema_shaping import leads_to
from budgateway.config.source import Source
from budgateway.errors import ConfigError
from budgateway.kinds import KINDS

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})

# variable -> (table, key, how to parse it)
VARIABLES: dict[str, tuple[str, str, str]] = {
    "GATEWAY_HOST": ("gateway", "host", "text"),
    "GATEWAY_PORT": ("gateway", "port", "int"),
    "WORKERS": ("gateway", "workers", "int"),
    "LOG_LEVEL": ("gateway", "log_level", "text"),
    "REDIS_URL": ("redis", "url", "url"),
    "REDIS_POOL_SIZE": ("redis", "pool_size", "int"),
    "JWT_EXPIRATION": ("auth", "jwt_expiration", "int"),
    "ENABLE_METRICS": ("metrics", "enabled", "bool"),
    "METRICS_HOST": ("metrics", "host", "text"),
    "METRICS_PORT": ("metrics", "port", "int"),
    "ENABLE_TRACING": ("tracing", "enabled", "bool"),
    "JAEGER_ENDPOINT": ("tracing", "endpoint", "url"),
    "ENABLE_REQUEST_TRACING": ("tracing", "requests", "bool"),
}
# Other programs' variables, for keys that no variable of ours sets: OpenTelemetry's, which concern every program on a
# machine, count only where tracing is enabled.
OTHERS: dict[str, tuple[str, str, str]] = {
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("tracing", "endpoint", "text"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("tracing", "endpoint", "base"),
    "OTEL_TRACES_SAMPLER_ARG": ("tracing", "ratio", "float"),
    "OTEL_SERVICE_NAME": ("tracing", "service_name", "text"),
}
RUST_LOG = "RUST_LOG"
JWT_SECRET = "JWT_SECRET"
# provider -> the variable with its endpoints; the first one set is the default provider.
ENDPOINTS = {kind.name: kind.endpoints_variable for kind in KINDS.values() if kind.endpoints_variable}
# provider -> the variable with its key.
KEYS = {kind.name: kind.key_variable for kind in KINDS.values() if kind.key_variable}
KNOWN = frozenset({*VARIABLES, JWT_SECRET, *ENDPOINTS.values(), *KEYS.values()})
# Names that other programs use for our variables; typing errors are found by similarity.
ALSO = {
    **{f"{name.upper()}_{word}": variable for name, variable in ENDPOINTS.items() for word in ("URL", "URLS", "BASE_URL", "API_BASE")},
    **{f"{prefix}_{name.removeprefix('GATEWAY_')}": name for name in KNOWN for prefix in ("GATEWAY", "BUDGATEWAY")},
    "JWT_SECRET_KEY": JWT_SECRET,
    "REDIS_URI": "REDIS_URL",
}  # fmt: skip
ALIKE = 0.88  # ratio of difflib: one wrong letter in ten
# Kubernetes describes each Service of the namespace to every pod (service links), in variables that begin with its
# name.
LINK = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
# provider -> the host of its hosted API: its key goes nowhere else.
HOSTS = {kind.name: kind.base_url.removeprefix("https://") for kind in KINDS.values() if kind.base_url}


class Variables(dict[str, str]):
    """The environment, with the names that came from a `.env` file."""

    def __init__(self, values: Mapping[str, str], file: str = "", written: frozenset[str] = frozenset()) -> None:
        super().__init__(values)
        self.file = file  # empty when there is none
        self.written = written


def variables(dotenv: Path) -> Variables:
    """Return the process's environment, completed from `.env`. Values of `.env` are taken literally, `$` included.

    Raises ConfigError when `.env` exists and cannot be read.
    """
    try:
        is_there = dotenv.is_file()
        read = dotenv_values(dotenv, interpolate=False) if is_there else {}
    except OSError as error:
        raise ConfigError([f"{dotenv}: {(error.strerror or 'cannot be read').lower()}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{dotenv}: not UTF-8 text"]) from error
    written = {name: value for name, value in read.items() if value is not None}
    values = {**written, **os.environ}
    return Variables(values, str(dotenv) if is_there else "", frozenset(written.keys() - os.environ.keys()))


def apply(source: Source, environ: Mapping[str, str]) -> None:
    """Apply the variables to the tables. An empty one counts as unset, because docker compose sets unset ones so."""
    if isinstance(environ, Variables) and environ.file:
        source.used.append(environ.file)
    for name, (table, key, kind) in VARIABLES.items():
        text = environ.get(name, "").strip()
        if LINK.match(text) and kind != "url":
            source.notices.append(
                f"{name}={shown(text)[1:-1]} is ignored: it is not a setting, but set by Kubernetes for a Service of that name "
                "(enableServiceLinks: false in the pod prevents it)"
            )
        elif text:
            source.override(table, key, _read(text, kind), place(environ, name))
            source.used.append(name)
    _apply_others(source, environ)
    if environ.get(JWT_SECRET):
        source.override("auth", "jwt_secret", f"env:{JWT_SECRET}", place(environ, JWT_SECRET))
        source.used.append(JWT_SECRET)
    if source.alone:
        source.tables["providers"], source.tables["routes"] = _alone(environ)
    _apply_endpoints(source, environ)
    source.notices.extend(near_misses(environ))


def _apply_others(source: Source, environ: Mapping[str, str]) -> None:
    """Apply other programs' variables, to keys that neither a file nor a variable of ours sets."""
    own = {(table, key) for name, (table, key, _) in VARIABLES.items() if environ.get(name, "").strip()}
    level = next((part[11:] for part in environ.get(RUST_LOG, "").split(",") if part.startswith("budgateway=")), "")
    if level and ("gateway", "log_level") not in own:
        source.override("gateway", "log_level", "CRITICAL" if level == "off" else level, place(environ, RUST_LOG))
        source.used.append(RUST_LOG)
    tracing = source.tables.get("tracing")
    if not isinstance(tracing, dict) or tracing.get("enabled") is not True:
        return
    for name, (table, key, kind) in OTHERS.items():
        text = environ.get(name, "").strip()
        if text and key not in tracing and (table, key) not in own:
            own.add((table, key))
            value = text.rstrip("/") + "/v1/traces" if kind == "base" else _read(text, kind)
            source.override(table, key, value, place(environ, name))
            source.used.append(name)


def place(environ: Mapping[str, str], name: str) -> str:
    """Return where a variable was set, for problems and notices."""
    if isinstance(environ, Variables) and name in environ.written:
        return f"{environ.file}: {name}"
    return f"environment: {name}"


def near_misses(environ: Mapping[str, str]) -> list[str]:
    """Return a notice for each unknown variable whose name is similar to a known one that is not set."""
    lines = []
    for name in sorted(environ.keys() - KNOWN):
        if not environ[name] or LINK.match(environ[name]) or LINK_NAME.search(name):
            continue
        upper = name.upper().replace("-", "_")
        meant = upper if upper in KNOWN else ALSO.get(upper) or nearest(upper, KNOWN, ALIKE)
        if meant and not environ.get(meant):
            lines.append(f"{place(environ, name)} is not read; did you mean {meant}?")
    return lines


def endpoints(environ: Mapping[str, str], provider: str) -> list[str]:
    """Return the upstream URLs that a variable sets for a provider; empty when there are none."""
    if provider not in ENDPOINTS:
        return []
    return [url for part in environ.get(ENDPOINTS[provider], "").split(",") if (url := part.strip())]


def described(environ: Mapping[str, str]) -> list[str]:
    """Return the providers that variables alone describe, the default one first."""
    found = [provider for provider in ENDPOINTS if endpoints(environ, provider)]
    return [*found, "openai"] if environ.get(KEYS["openai"]) else found


def _alone(environ: Mapping[str, str]) -> tuple[dict[str, object], list[object]]:
    """Return providers and routes for a configuration by variables only. Everything under /v1 goes to the first
    provider; with several, `name/model` goes to the one named, without its prefix. Without JWT_SECRET clients are not
    authenticated, and the gateway listens on this machine only."""
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
        # The realtime API is a separate WebSocket route.
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
    """Set endpoints from variables on the provider of that name; create a provider that only a route names."""
    tables, routes = source.tables.get("providers", {}), source.tables.get("routes", [])
    if not isinstance(tables, dict) or not isinstance(routes, list):
        return
    tables = dict(tables)
    routed = [name for route in routes if isinstance(route, dict) for name in leads_to(route)]
    for name in described(environ):
        variable = ENDPOINTS.get(name, KEYS["openai"])
        if name not in tables and name not in routed:
            # OPENAI_API_KEY is often set for other programs; the other variables are meant for us.
            if name in ENDPOINTS and not source.incomplete:
                source.notices.append(f"{variable} has no effect: no route goes to provider {name!r}")
            continue
        table = tables.setdefault(name, {})
        if isinstance(table, dict) and (urls := endpoints(environ, name)):
            _note_replaced(source, name, table.get("endpoints"), urls, place(environ, variable))
            tables[name] = {**table, "endpoints": [{"url": url} for url in urls]}
            source.variables["providers", name, "endpoints"] = place(environ, variable)
        if name in ENDPOINTS or source.alone:
            source.used.append(variable)
    if tables:
        source.tables["providers"] = tables


def _note_replaced(source: Source, name: str, written: object, urls: list[str], by: str) -> None:
    """Note that a variable replaces a file's endpoints, with their weights and limits."""
    if not isinstance(written, list) or not written or written == urls:
        return
    weighted = any(isinstance(entry, dict) and len(entry) > 1 for entry in written)
    count = f"{len(written)} endpoint{'s' if len(written) != 1 else ''}"
    also = ", with their weights and limits" if weighted else ""
    file = source.places.get(("providers",), "the file")
    source.notices.append(f"{by} replaces {count} of provider {shown(name)} in {file}{also}")


def _read(text: str, kind: str) -> object:
    """Parse a variable's text as its key's type. Text that does not parse is returned as is and fails in the schema,
    with its place."""
    if kind == "int":
        digits = text.removeprefix("-")
        return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else text
    if kind == "float":
        try:
            return float(text)
        except ValueError:
            return text
    if kind == "bool":
        lowered = text.lower()
        return True if lowered in TRUE else False if lowered in FALSE else text
    return text
