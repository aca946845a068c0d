"""Configuration of health: circuit breaker, outlier ejection and probes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from budgateway.config.problems import shown
from budgateway.config.types import Path, Seconds, Table, Text, one_or_many


def status_range(value: object) -> object:
    """Turn a status, or a range such as "200-299" or "2xx", into text of the form "200-299"."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    words = value.strip() if isinstance(value, str) else ""
    if found := re.fullmatch(r"([1-5])xx", words, re.IGNORECASE):
        return f"{found[1]}00-{found[1]}99"
    found = re.fullmatch(r"([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?", words, re.ASCII)
    if found is None or int(found[1]) > int(found[2] or found[1]):
        raise ValueError(f'must be a status such as 200 or a range such as "200-299" or "2xx", got {shown(value)}')
    return f"{found[1]}-{found[2] or found[1]}"


def as_list(value: object) -> object:
    """Turn a single status into a list."""
    return [value] if isinstance(value, int) else one_or_many(value)


Percent = Annotated[int, Field(ge=0, le=100)]
Threshold = Annotated[int, Field(ge=1, le=1000)]
StatusWord = Annotated[str, Field(pattern=r"^\s*([1-5][xX]{2}|[1-5]\d\d(\s*-\s*[1-5]\d\d)?)\s*$")]
Status = Annotated[str, BeforeValidator(status_range, json_schema_input_type=int | StatusWord)]
Statuses = Annotated[
    list[Status],
    Field(min_length=1),
    BeforeValidator(as_list, json_schema_input_type=int | StatusWord | list[int | StatusWord]),
]


class CircuitBreakerConfig(Table):
    """The circuit breaker: stop sending traffic to an upstream that fails, and try it again later."""

    enabled: bool = True
    """Enable the breaker."""
    failure_threshold: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Consecutive failures that open it."""
    failure_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """Share of failed calls in the window that opens it, too; 0 to use consecutive failures only."""
    minimum_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Minimum calls in the window before the share counts."""
    window: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 30
    """Length in seconds of the window for the share."""
    timeout_duration: Seconds = 60
    """Seconds it stays open before trial requests."""
    half_open_max_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """Trial requests while half open, all workers together."""


class OutlierEjectionConfig(Table):
    """Outlier ejection: skip a failing upstream for a while, as long as its provider has others."""

    enabled: bool = True
    """Enable ejection."""
    consecutive_failures: Annotated[int, Field(ge=1, le=255)] = 5
    """Consecutive failures (no connection, or 5xx except 501 and 503) that eject it."""
    ejection_time: Seconds = 10
    """Seconds of the first ejection; multiplied by the number of recent ejections."""
    max_ejection_time: Seconds = 300
    """Maximum seconds of an ejection."""
    max_ejection_percent: Percent = 50
    """Percentage of a provider's upstreams that may be ejected at a time; more only while another one answers, and never the
    last one. 0 disables ejection."""
    panic_threshold: Percent = 50
    """Percentage of a provider's upstreams: when fewer are available, ejected and unhealthy ones are used, too."""


class GenerateConfig(Table):
    """A probe that makes the upstream generate one token."""

    model: Text
    """The model to use, as the upstream names it."""


class HealthKeys(Table):
    """Keys of a provider that control health checks of its upstreams."""

    health_check_enabled: bool = True
    """Probe the upstreams."""
    health_check_path: Path | None = None
    """Path to probe with GET; default by kind, such as `/health` (vllm, sglang)."""
    health_check_interval: Seconds = 30
    """Seconds between probes, plus or minus 10 %; sooner when an upstream fails or does not respond to traffic."""
    health_check_timeout: Seconds = 5
    """Seconds for a probe's response."""
    healthy_threshold: Threshold = 2
    """Consecutive successful probes that make an unhealthy upstream healthy."""
    unhealthy_threshold: Threshold = 3
    """Consecutive failed probes that make it unhealthy."""
    health_check_status: Statuses | None = None
    """Statuses of a successful probe: 200, "200-299", "2xx", or a list; default 2xx, or all below 500 if no path is set and
    the kind has no default path."""
    health_check_body: Text | None = None
    """Text that the body of a successful probe contains."""
    health_check_generate: GenerateConfig | None = None
    """Generate a token instead of requesting the path: `{ model = "..." }`."""
    engine_metrics_path: Path | None = None
    """Path of the engine's Prometheus metrics, for its load; default by kind, such as `/metrics`."""
    slow_start: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10
    """Seconds over which a new or recovered upstream is ramped up to its full share; 0 for immediately."""
