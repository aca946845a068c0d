"""The environment: which variable sets which key, and the providers that variables alone describe."""

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

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})

# variable -> (table, key, how to read it)
VARIABLES: dict[str, tuple[str, str, str]] = {
    "GATEWAY_HOST": ("gateway", "host", "text"),
    "GATEWAY_PORT": ("gateway", "port", "int"),
    "WORKERS": ("gateway", "workers", "int"),
    "LOG_LEVEL": ("gateway", "log_level", "text"),
    "REDIS_URL": ("redis", "url", "url"),
    "REDIS_POOL_SIZE": ("redis", "pool_size", "int"),
    "JWT_EXPIRATION": ("auth", "jwt_expiration", "int"),
    "ENABLE_METRICS": ("metrics", "enabled", "bool"),
    "METRICS_PORT": ("metrics", "port", "int"),
    "ENABLE_TRACING": ("tracing", "enabled", "bool"),
    "JAEGER_ENDPOINT": ("tracing", "endpoint", "url"),
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
KNOWN = frozenset({*VARIABLES, JWT_SECRET, *ENDPOINTS.values(), *KEYS.values()})
# What other programs call what we call otherwise; slips of the finger are found by likeness.
ALSO = {
    **{f"{name.upper()}_{word}": variable for name, variable in ENDPOINTS.items() for word in ("URL", "URLS", "BASE_URL", "API_BASE")},
    **{f"{prefix}_{name.removeprefix('GATEWAY_')}": name for name in KNOWN for prefix in ("GATEWAY", "BUDGATEWAY")},
    "JWT_SECRET_KEY": JWT_SECRET,
    "REDIS_URI": "REDIS_URL",
}  # fmt: skip
ALIKE = 0.88  # of difflib: one letter in ten
# Kubernetes describes each Service of the namespace to every pod (service links), by variables that begin with its name.
LINK = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
OPENAI_HOST = "api.openai.com"
OPENAI_URL = f"https://{OPENAI_HOST}"


class Variables(dict[str, str]):
    """The environment, and which of it a `.env` file says."""

    def __init__(self, values: Mapping[str, str], file: str = "", written: frozenset[str] = frozenset()) -> None:
        super().__init__(values)
        self.file = file  # empty when there is none
        self.written = written


def variables(dotenv: Path) -> Variables:
    """The process's environment over what `.env` says. Values of `.env` are taken as they are, `$` included.

    Raises ConfigError for one that is there and cannot be read.
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
    """Lay the variables over the tables. An empty one counts as unset, as docker compose leaves them."""
    if isinstance(environ, Variables) and environ.file:
        source.used.append(environ.file)
    for name, (table, key, kind) in VARIABLES.items():
        text = environ.get(name, "").strip()
        if LINK.match(text) and kind != "url":
            source.notices.append(
                f"{name}={shown(text)[1:-1]} is ignored: it is no setting but what Kubernetes says of a Service of that name "
                "(a pod without these has enableServiceLinks: false)"
            )
        elif text:
            source.override(table, key, _read(text, kind), place(environ, name))
            source.used.append(name)
    if environ.get(JWT_SECRET):
        source.override("auth", "jwt_secret", f"env:{JWT_SECRET}", place(environ, JWT_SECRET))
        source.used.append(JWT_SECRET)
    if source.alone:
        source.tables["providers"], source.tables["routes"] = _alone(environ)
    _apply_endpoints(source, environ)
    source.notices.extend(near_misses(environ))


def place(environ: Mapping[str, str], name: str) -> str:
    """Where a variable was set, as problems and notices say it."""
    if isinstance(environ, Variables) and name in environ.written:
        return f"{environ.file}: {name}"
    return f"environment: {name}"


def near_misses(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that nobody reads and that is nearly one of ours, unless that one is set as well."""
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
            _note_replaced(source, name, table.get("endpoints"), urls, place(environ, variable))
            tables[name] = {**table, "endpoints": [{"url": url} for url in urls]}
            source.variables["providers", name, "endpoints"] = place(environ, variable)
        if name in ENDPOINTS or source.alone:
            source.used.append(variable)
    if tables:
        source.tables["providers"] = tables


def _note_replaced(source: Source, name: str, written: object, urls: list[str], by: str) -> None:
    """Endpoints of a file that a variable replaces, and what goes with them."""
    if not isinstance(written, list) or not written or written == urls:
        return
    weighted = any(isinstance(entry, dict) and len(entry) > 1 for entry in written)
    count = f"{len(written)} endpoint{'s' if len(written) != 1 else ''}"
    also = ", with their weights and bounds" if weighted else ""
    file = source.places.get(("providers",), "the file")
    source.notices.append(f"{by} replaces {count} of provider {shown(name)} in {file}{also}")


def _read(text: str, kind: str) -> object:
    """A variable's text as the type of its key; what does not fit stays text and fails in the schema, with its place."""
    if kind == "int":
        digits = text.removeprefix("-")
        return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else text
    if kind == "bool":
        lowered = text.lower()
        return True if lowered in TRUE else False if lowered in FALSE else text
    return text
