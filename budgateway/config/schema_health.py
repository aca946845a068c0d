"""Health: when an upstream is taken for failing, and how it is asked whether it is well."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from budgateway.config.problems import shown
from budgateway.config.words import Path, Seconds, Table, Text, one_or_many


def status_range(value: object) -> object:
    """A status, or a range such as "200-299" or "2xx", as text of the form "200-299"."""
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
    """A lone status stands for a list of one."""
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
    """When an upstream that fails is given a rest."""

    enabled: bool = True
    """Switch the breaker off without deleting it."""
    failure_threshold: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Failures in a row that open it."""
    failure_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """Share of late calls whose failure opens it, too; 0 to go by failures in a row alone."""
    minimum_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """Calls below which the share says nothing."""
    window: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 30
    """Seconds that the share is taken of."""
    timeout_duration: Seconds = 60
    """Seconds it stays open."""
    half_open_max_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 3
    """Trial requests after that, over all workers."""


class OutlierEjectionConfig(Table):
    """When an upstream that fails is passed over for a while, as long as others of its provider are left."""

    enabled: bool = True
    """Switch it off."""
    consecutive_failures: Annotated[int, Field(ge=1, le=255)] = 5
    """Failures in a row (no connection, 5xx but 501 and 503) that eject it."""
    ejection_time: Seconds = 10
    """Seconds out, times the times that this happened of late."""
    max_ejection_time: Seconds = 300
    """Seconds out at most."""
    max_ejection_percent: Percent = 50
    """Of a provider's upstreams that may be out at a time; more only while another one answers, and never the last one. 0:
    none at all."""
    panic_threshold: Percent = 50
    """Percent of a provider's upstreams: when fewer are available, resting and unhealthy ones are used, too."""


class GenerateConfig(Table):
    """A probe that has the upstream compute one token."""

    model: Text
    """The model to ask, as the upstream calls it."""


class HealthKeys(Table):
    """Keys of a provider about the health of its upstreams."""

    health_check_enabled: bool = True
    """Ask the upstreams whether they are well."""
    health_check_path: Path | None = None
    """What is asked with GET; default by kind: `/health` (vllm, sglang), `/health/liveliness` (litellm), `/v1/models`."""
    health_check_interval: Seconds = 30
    """Seconds between two questions, give or take a tenth; sooner when traffic hears nothing of an upstream, or it failed."""
    health_check_timeout: Seconds = 5
    """Seconds for an answer."""
    healthy_threshold: Threshold = 2
    """Good answers in a row that bring an unhealthy upstream back."""
    unhealthy_threshold: Threshold = 3
    """Bad answers in a row that make it unhealthy."""
    health_check_status: Statuses | None = None
    """Statuses of a good answer: 200, "200-299", "2xx", or a list; default 2xx, and all below 500 where no path is given and
    the kind has none of its own."""
    health_check_body: Text | None = None
    """Text that a good answer holds."""
    health_check_generate: GenerateConfig | None = None
    """Have it compute a token instead of asking the path: `{ model = "..." }`."""
    engine_metrics_path: Path | None = None
    """Prometheus metrics of the engine, for its load; default by kind: `/metrics` (vllm, sglang)."""
    slow_start: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 10
    """Seconds in which an upstream that comes back, or is new, gets its whole share; 0 for at once."""
