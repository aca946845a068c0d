"""The table `[tracing]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from budgateway.config.types import HeaderName, Seconds, SecretRef, Table, Text

Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class TracingConfig(Table):
    """Distributed tracing: spans of exchanges, sent to an OpenTelemetry collector or to Jaeger."""

    enabled: bool = False
    """Enable tracing."""
    endpoint: Text = "http://localhost:4318"
    """URL that spans are sent to: of OTLP over HTTP (`/v1/traces` is added where there is no path), or Jaeger's `/api/traces`."""
    protocol: Literal["otlp", "jaeger"] | None = None
    """Format of the spans: `otlp` (protobuf over HTTP) or `jaeger` (Thrift over HTTP). Default: by the endpoint's path."""
    headers: dict[HeaderName, SecretRef] = {}
    """Headers sent with the spans: references to secrets."""
    ratio: Ratio = 0.01
    """Share of the exchanges that are traced, of those whose client sends no trace of its own."""
    parent: Literal["follow", "link", "ignore"] = "follow"
    """Treatment of a client's `traceparent`: `follow` continues its trace, and its flag decides; `link` and `ignore` begin a new one."""
    keep_errors: bool = True
    """Trace every exchange that failed."""
    keep_slower_than: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 10
    """Trace every exchange whose first token, or first byte, took more seconds; 0 for none."""
    max_per_second: Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)] = 50
    """Maximum exchanges traced a second, all workers together."""
    service_name: Text = "budgateway"
    """Name of the service in traces."""
    resource: dict[Text, str] = {}
    """Further attributes of the service, such as `deployment.environment.name`."""
    principal: bool = True
    """Include principal, tenant and client address in spans."""
    requests: bool = False
    """Debugging: keep every exchange's timeline, answer with `server-timing`, and log a line for each."""
    tls_ca_file: Text | None = None
    """Certificate authorities to trust for an https endpoint instead of the system's, PEM."""
    timeout: Seconds = 10
    """Seconds to send a batch of spans, all attempts together."""
