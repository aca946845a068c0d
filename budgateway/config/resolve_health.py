"""Conversion of the health tables to records: defaults depend on the provider's kind."""

from __future__ import annotations

from budgateway.config.schema_health import CircuitBreakerConfig, HealthKeys, OutlierEjectionConfig
from budgateway.kinds import KINDS
from budgateway.records import BreakerSettings, HealthCheck, OutlierSettings

# Every server has a model list. Any status below 500 shows that the server runs, 401 and 404 included.
ALIVE: tuple[tuple[int, int], ...] = ((200, 499),)
GOOD: tuple[tuple[int, int], ...] = ((200, 299),)


def health_check_of(kind: str, table: HealthKeys, api_version: str = "") -> HealthCheck | None:
    """Return the health probes of a provider's upstreams; None when they are disabled."""
    if not table.health_check_enabled:
        return None
    known = KINDS[kind]
    models_path = known.models_path.replace("{api_version}", api_version)
    statuses = ALIVE if table.health_check_path is None and not known.probe_path else GOOD
    if table.health_check_generate is not None:
        statuses = GOOD
    if table.health_check_status is not None:
        statuses = tuple(_range(words) for words in table.health_check_status)
    return HealthCheck(
        path=table.health_check_path or known.probe_path or models_path,
        interval_s=table.health_check_interval,
        timeout_s=table.health_check_timeout,
        healthy_threshold=table.healthy_threshold,
        unhealthy_threshold=table.unhealthy_threshold,
        statuses=statuses,
        body=table.health_check_body or "",
        generate_model="" if table.health_check_generate is None else table.health_check_generate.model,
        models_path=models_path if known.lists_all else "",
        load_paths=known.load_paths if table.engine_metrics_path is None else (table.engine_metrics_path,),
    )


def breaker_of(table: CircuitBreakerConfig | None) -> BreakerSettings | None:
    """Return the circuit breaker's settings; None without the table, or when it is disabled."""
    if table is None or not table.enabled:
        return None
    return BreakerSettings(
        failure_threshold=table.failure_threshold,
        open_s=table.timeout_duration,
        half_open_max_calls=table.half_open_max_calls,
        failure_ratio=table.failure_ratio,
        minimum_calls=table.minimum_calls,
        window_s=table.window,
    )


def outliers_of(table: OutlierEjectionConfig) -> OutlierSettings | None:
    """Return the settings of outlier ejection; None when it is disabled."""
    if not table.enabled:
        return None
    return OutlierSettings(
        consecutive_failures=table.consecutive_failures,
        ejection_s=table.ejection_time,
        max_ejection_s=table.max_ejection_time,
        max_percent=table.max_ejection_percent,
    )


def _range(words: str) -> tuple[int, int]:
    first, _, last = words.partition("-")
    return int(first), int(last)
