"""Conversion of `[tracing]` to Tracing: the endpoint's protocol, secrets, and the variables of OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from budgateway.config.problems import shown
from budgateway.config.types import FIELD_VALUE, TOKEN
from budgateway.records import Secret, Tracing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from budgateway.config.resolve import Resolver
    from budgateway.config.schema_tracing import TracingConfig
    from budgateway.config.source import KeyPath

JAEGER_PATH = "/api/traces"
OTLP_PATH = "/v1/traces"
GRPC_PORT = 4317
ENDPOINT: KeyPath = ("tracing", "endpoint")


def tracing_of(resolve: Resolver, table: TracingConfig | None, environ: Mapping[str, str]) -> Tracing | None:
    """Return the settings of tracing, or None when nothing is traced."""
    if table is None or not (table.enabled or table.requests):
        return None
    url = _endpoint(resolve, table)
    headers = {name: resolve.secret(("tracing", "headers", name), text) for name, text in table.headers.items()}
    sent = {name: secret for name, secret in headers.items() if secret is not None}
    protocol = table.protocol or ("jaeger" if urlsplit(url).path.rstrip("/") == JAEGER_PATH else "otlp")
    return Tracing(
        # A timeline without tracing stays in the gateway.
        endpoint=url if table.enabled else "",
        protocol=protocol,
        headers=tuple(sent.items()) if sent else _headers(resolve, environ),
        ratio=table.ratio,
        parent=table.parent,
        keep_errors=table.keep_errors,
        keep_slower_than_s=table.keep_slower_than,
        max_per_second=table.max_per_second,
        service_name=table.service_name,
        resource=tuple({**_pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")), **table.resource}.items()),
        principal=table.principal,
        requests=table.requests,
        ca_file=resolve.authorities(("tracing", "tls_ca_file"), table.tls_ca_file),
        timeout_s=table.timeout,
    )


def _endpoint(resolve: Resolver, table: TracingConfig) -> str:
    """Return the URL that spans are sent to, checked."""
    url = table.endpoint
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        resolve.problems.add(ENDPOINT, "not a URL")
        return url
    if "@" in parts.netloc:  # before any message that shows the URL
        resolve.problems.add(ENDPOINT, "must hold no credentials: use headers, with a reference to the secret")
    elif parts.scheme not in ("http", "https") or not parts.hostname:
        resolve.problems.add(ENDPOINT, f"must begin with http:// or https://, got {shown(url)}")
    elif parts.query or parts.fragment:
        resolve.problems.add(ENDPOINT, "must have no query and no fragment")
    elif port == GRPC_PORT:
        resolve.problems.add(
            ENDPOINT, f"port {GRPC_PORT} is OTLP over gRPC; the gateway sends OTLP over HTTP, usually to port 4318"
        )
    if parts.path in ("", "/"):
        return url.rstrip("/") + (JAEGER_PATH if table.protocol == "jaeger" else OTLP_PATH)
    return url


def _headers(resolve: Resolver, environ: Mapping[str, str]) -> tuple[tuple[str, Secret], ...]:
    """Return the headers of OTEL_EXPORTER_OTLP_HEADERS, whose values may be secret."""
    pairs = _pairs(environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
    for name, value in pairs.items():
        if not TOKEN.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
            resolve.problems.lines.append(
                "environment: OTEL_EXPORTER_OTLP_HEADERS: must be NAME=VALUE,NAME=VALUE with values that a header can carry"
            )
            return ()
    return tuple((name.lower(), Secret(value)) for name, value in pairs.items())


def _pairs(text: str) -> dict[str, str]:
    """Parse OpenTelemetry's lists, `name=value,name=value`, percent-encoded (W3C Baggage)."""
    found = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        if separator and name.strip():
            found[unquote(name.strip())] = unquote(value.strip())
    return found
