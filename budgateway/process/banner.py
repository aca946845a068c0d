"""The startup banner: the gateway's address, what it serves, and a curl line to paste."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from budgateway.records import Provider, Route, Settings

CHAT = "/v1/chat/completions"
# Longer lists are cut, and their rest is counted.
LISTED_MAX = 12


def banner(settings: Settings, *, version: str = "", metrics_url: str = "") -> str:
    """Return the banner: several lines for a terminal, without colours or secrets."""
    url = base_url(settings)
    lines = [f"budgateway {version}".rstrip(), f"  listening  {url}/v1  ({_workers(settings.workers)})"]
    if not metrics_url and settings.metrics_enabled and settings.metrics_port:
        metrics_url = f"http://{_reachable(settings.metrics_host)}:{settings.metrics_port}/metrics"
    lines.append(f"  metrics    {metrics_url or url + '/metrics'}")
    lines += _listed("providers", [_provider_line(provider) for provider in settings.providers])
    lines += _listed("routes", [_route_line(route) for route in settings.routes])
    if settings.sources:
        lines.append(f"  from       {', '.join(settings.sources)}")
    lines += [f"  note       {notice}" for notice in settings.notices]
    if command := curl_line(settings):
        lines += ["", f"try it{', with a name from GET /v1/models for MODEL' if 'MODEL' in command else ''}:"]
        if "$TOKEN" in command and settings.jwt_secret is not None:
            lines.append(f"  {token_line(settings)}")
        lines.append(f"  {command}")
    return "\n".join(lines) + "\n"


def base_url(settings: Settings) -> str:
    """Return the URL at which a client on this machine reaches the gateway."""
    scheme = "https" if settings.tls else "http"
    return f"{scheme}://{_reachable(settings.host)}:{settings.port}"


def curl_line(settings: Settings) -> str:
    """Return a command that requests a streamed answer; empty when no route leads to a chat."""
    route = next((route for route in settings.routes if _leads_to_chat(route)), None)
    if route is None:
        return ""
    provider = next((provider for provider in settings.providers if provider.name == route.provider), None)
    body = {"model": _model(route, provider), "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    auth = ' -H "authorization: Bearer $TOKEN"' if route.auth_required else ""
    insecure = "k" if settings.tls else ""
    # Within a shell's single quotes only the single quote needs escaping.
    text = json.dumps(body).replace("'", "'\\''")
    return f"curl -N{insecure} {base_url(settings)}{CHAT} -H 'content-type: application/json'{auth} -d '{text}'"


def token_line(settings: Settings) -> str:
    """Return a command that creates the token for the curl line, from the configuration this gateway has read."""
    files = [Path(source) for source in settings.sources if source.endswith(".toml")]
    words = ["budgateway", "token"]
    # ./config is the default and needs no option; a single file may be its directory's only one, or named itself.
    if files and files[0].parent != Path("config"):
        words += ["--config", str(files[0] if len(files) == 1 else files[0].parent)]
    if settings.auth.grants:
        words += ["--role", settings.auth.grants[0].role]
    return f"TOKEN=$({shlex.join(words)})"


def _leads_to_chat(route: Route) -> bool:
    path_fits = route.path == CHAT or (route.path.endswith("*") and CHAT.startswith(route.path[:-1]))
    return path_fits and not route.host and not route.headers and (not route.methods or "POST" in route.methods)


def _model(route: Route, provider: Provider | None) -> str:
    """Return a model name that this route would accept: a real one if the configuration names one."""
    known = [*provider.named_aliases, *provider.models] if provider else []
    if not route.models:
        return known[0] if known else "MODEL"
    pattern = route.models[0]
    if "*" not in pattern and "?" not in pattern:
        return pattern
    prefix = pattern.rstrip("*")
    # `vllm/*` needs a name behind it; `gpt-4o*` is one already.
    return prefix if prefix and not prefix.endswith("/") else prefix + (known[0] if known else "MODEL")


def _listed(title: str, lines: list[str]) -> list[str]:
    shown = (
        lines if len(lines) <= LISTED_MAX else [*lines[: LISTED_MAX - 1], f"... and {len(lines) - LISTED_MAX + 1} more"]
    )
    return [f"  {title if index == 0 else '':<9}  {line}" for index, line in enumerate(shown)]


def _provider_line(provider: Provider) -> str:
    urls = ", ".join(upstream.url for upstream in provider.upstreams)
    label = f" ({provider.label})" if provider.label else ""
    return f"{provider.name}{label}: {urls}"


def _route_line(route: Route) -> str:
    methods = ",".join(route.methods) or "ANY"
    models = f" model {', '.join(route.models)}" if route.models else ""
    open_to_all = "" if route.auth_required else "  [no authentication]"
    return f"{methods} {route.host}{route.path}{models} -> {', '.join(route.answerers())}{open_to_all}"


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::", "127.0.0.1"):
        return "localhost"
    return f"[{host}]" if ":" in host else host
