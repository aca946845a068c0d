"""Prometheus' configuration, its recording rules, the alerts, and their tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RECORDING, ALERTING = "budgateway-recording", "budgateway-alerts"
AVAILABLE = 0.999  # of the exchanges, over 30 days
FAST = 0.95  # of the streams, over 30 days
FAST_S = 2.5  # until the first token; a bound of the histogram
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
# Length of an alert's tests, and the step between samples, in minutes, by its long window.
TESTED = {"1h": (70, 1), "6h": (400, 5), "1d": (1500, 20), "3d": (4400, 20)}
LEAST_BAD = 20  # fewer in the long window are no reason to alert
# Google's SRE workbook, chapter 5: burn rate, long window, short window, severity.
BURNS = (
    (14.4, "1h", "5m", "page"),
    (6, "6h", "30m", "page"),
    (3, "1d", "2h", "ticket"),
    (1, "3d", "6h", "ticket"),
)

# What a client cannot help: a gateway or an upstream that failed. Not the client's mistakes, its limits, its leaving.
BAD = (
    'budgateway_errors_total{{outcome=~"upstream_failed|truncated"}}[{0}]',
    'budgateway_errors_total{{outcome="refused",status=~"5.."}}[{0}]',
)


@dataclass(frozen=True, slots=True)
class Case:
    """A test of an alert: series in promtool's notation, and whether it fires at `at`."""

    series: dict[str, str]
    at: str
    fires: bool


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `summary` and `description` are templates of Prometheus'."""

    name: str
    expr: str
    severity: str
    summary: str
    description: str
    cases: tuple[Case, ...]
    wait: str = "0m"
    window: str = ""  # tells alerts of one name apart
    step: str = "1m"  # between two samples of its tests: long windows need few


def prometheus() -> dict[str, Any]:
    """Return prometheus.yml."""
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["rules/recording.yml", "rules/alerts.yml"],
        "scrape_configs": [{"job_name": "budgateway", "static_configs": [{"targets": ["localhost:9090"]}]}],
    }


def recording() -> dict[str, Any]:
    """Return the recording rules: the share of bad exchanges and of late first tokens, by route."""
    rules = []
    for window in WINDOWS:
        all_of = f"sum by (route) (rate(budgateway_requests_total[{window}]))"
        bad = " or ".join(f"rate({part.format(window)})" for part in BAD)
        # A route without a bad exchange has a share of 0, not none.
        rules.append(
            {
                "record": f"route:budgateway_bad:ratio_rate{window}",
                "expr": f"(sum by (route) ({bad}) or 0 * {all_of}) / ({all_of} > 0)",
            }
        )
        tokens = "budgateway_time_to_first_token_seconds"
        count = f"sum by (route) (rate({tokens}_count[{window}]))"
        fast = f'sum by (route) (rate({tokens}_bucket{{le="{FAST_S}"}}[{window}]))'
        rules.append({"record": f"route:budgateway_late:ratio_rate{window}", "expr": f"1 - {fast} / ({count} > 0)"})
    return {"groups": [{"name": RECORDING, "rules": rules}]}


def alerts(runbooks: str) -> dict[str, Any]:
    """Return the alerts. `runbooks` is the URL of the page that explains them."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            **({} if alert.wait == "0m" else {"for": alert.wait}),
            "labels": {"severity": alert.severity, **({"window": alert.window} if alert.window else {})},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook_url": f"{runbooks}#{alert.name.lower()}",
            },
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": ALERTING, "rules": rules}]}


def tests(alert: Alert) -> dict[str, Any]:
    """Return promtool's tests of one alert: the cases in which it fires, and those in which it does not."""
    window = f',window="{alert.window}"' if alert.window else ""
    selector = f'ALERTS{{alertname="{alert.name}",alertstate="firing"{window}}}'
    return {
        "rule_files": ["../recording.yml", "../alerts.yml"],
        "evaluation_interval": alert.step,
        "group_eval_order": [RECORDING, ALERTING],
        "tests": [
            {
                "name": "fires" if case.fires else "is quiet",
                "interval": alert.step,
                "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
                "promql_expr_test": [
                    {
                        "expr": f"count({selector})" if case.fires else selector,
                        "eval_time": case.at,
                        "exp_samples": [{"labels": "{}", "value": 1}] if case.fires else [],
                    }
                ],
            }
            for case in alert.cases
        ],
    }


def _requests(**labels: str) -> str:
    given = {"route": "chat", "provider": "vllm", "model": "m", "status": "200"} | labels
    return "budgateway_requests_total{" + ",".join(f'{name}="{value}"' for name, value in given.items()) + "}"


def _errors(outcome: str, status: str = "502") -> str:
    return _requests(status=status, outcome=outcome).replace("_requests_", "_errors_")


def _burning(good: str, bad: str, at: str) -> Case:
    return Case({_requests(): good, _requests(status="502"): bad, _errors("upstream_failed"): bad}, at, True)


def _burn_alerts() -> list[Alert]:
    found = []
    for burn, long, short, severity in BURNS:
        share = f"{burn * (1 - AVAILABLE):.4g}"
        bad = "route:budgateway_bad:ratio_rate"
        counted = " or ".join(f"increase({part.format(long)})" for part in BAD)
        minutes, step = TESTED[long]
        count = minutes // step
        # Half of a thousand exchanges a step fail; then a client's own mistakes, which are nobody's fault.
        cases = (
            _burning(f"0+500x{count}", f"0+500x{count}", f"{minutes}m"),
            Case(
                {
                    _requests(): f"0+500x{count}",
                    _requests(status="429"): f"0+500x{count}",
                    _errors("refused", "429"): f"0+500x{count}",
                    _errors("client_gone", "200"): f"0+5x{count}",
                },
                f"{minutes}m",
                False,
            ),
        )
        found.append(
            Alert(
                "BudgatewayErrorBudgetBurn",
                f"{bad}{long} > {share} and {bad}{short} > {share} and sum by (route) ({counted}) >= {LEAST_BAD}",
                severity,
                "Route {{ $labels.route }} fails too often",
                f"{{{{ $value | humanizePercentage }}}} of its exchanges failed over {long}: at this rate the error budget of 30 days "
                f"({1 - AVAILABLE:.1%}) is used up {burn:g} times as fast as it may be.",
                cases,
                window=long,
                step=f"{step}m",
            )
        )
    return found


def _token_series(fast: str, slow: str) -> dict[str, str]:
    labels = 'route="chat",provider="vllm",model="m"'
    name = "budgateway_time_to_first_token_seconds"
    return {
        f'{name}_bucket{{{labels},le="{FAST_S}"}}': fast,
        f'{name}_bucket{{{labels},le="+Inf"}}': slow,
        f"{name}_count{{{labels}}}": slow,
    }


def _token_alerts() -> list[Alert]:
    found = []
    for burn, long, short, severity in BURNS:
        share = f"{min(burn * (1 - FAST), 0.9):.4g}"
        late = "route:budgateway_late:ratio_rate"
        count = f"increase(budgateway_time_to_first_token_seconds_count[{long}])"
        fast = f'increase(budgateway_time_to_first_token_seconds_bucket{{le="{FAST_S}"}}[{long}])'
        minutes, step = TESTED[long]
        steps = minutes // step
        found.append(
            Alert(
                "BudgatewayFirstTokenBudgetBurn",
                f"{late}{long} > {share} and {late}{short} > {share} and sum by (route) ({count}) - sum by (route) ({fast}) >= {LEAST_BAD}",
                severity,
                "Route {{ $labels.route }}: first tokens come late",
                f"{{{{ $value | humanizePercentage }}}} of its streams had no token within {FAST_S} s over {long}.",
                (
                    Case(_token_series(f"0+10x{steps}", f"0+1000x{steps}"), f"{minutes}m", True),
                    Case(_token_series(f"0+990x{steps}", f"0+1000x{steps}"), f"{minutes}m", False),
                ),
                window=long,
                step=f"{step}m",
            )
        )
    return found


UP = 'budgateway_upstream_up{job="b",instance="i",upstream="vllm/%d"}'
INFO = 'budgateway_upstream_info{job="b",instance="i",upstream="vllm/%d",provider="vllm",url="http://u"}'
ONE = 'job="b",instance="i"'

ALERTS: tuple[Alert, ...] = (
    *_burn_alerts(),
    *_token_alerts(),
    Alert(
        "BudgatewayDown",
        'up{job="budgateway"} == 0',
        "page",
        "{{ $labels.instance }} cannot be scraped",
        "Prometheus has had no answer from its metrics port for 2 minutes.",
        (
            Case({'up{job="budgateway",instance="i"}': "1 0x5"}, "5m", True),
            Case({'up{job="budgateway",instance="i"}': "1 0 1x5"}, "5m", False),
        ),
        "2m",
    ),
    Alert(
        "BudgatewayRouteWithoutUpstream",
        "max by (job, instance, provider) (budgateway_upstream_up * on (job, instance, upstream) group_left (provider) "
        "budgateway_upstream_info) == 0 and on (provider) sum by (provider) (rate(budgateway_requests_total[10m])) > 0",
        "page",
        "Provider {{ $labels.provider }} has no upstream that takes traffic",
        "Every upstream of the provider is away on {{ $labels.instance }}, and clients ask for it.",
        (
            Case({UP % 0: "0x9", UP % 1: "0x9", INFO % 0: "1x9", INFO % 1: "1x9", _requests(): "0+9x9"}, "9m", True),
            Case({UP % 0: "0x9", UP % 1: "1x9", INFO % 0: "1x9", INFO % 1: "1x9", _requests(): "0+9x9"}, "9m", False),
        ),
        "1m",
    ),
    Alert(
        "BudgatewayUpstreamDown",
        "budgateway_upstream_up == 0",
        "ticket",
        "Upstream {{ $labels.upstream }} takes no traffic",
        "It has been away for 5 minutes on {{ $labels.instance }}: GET /admin/providers/health says why.",
        (Case({UP % 0: "0x9"}, "9m", True), Case({UP % 0: "0 0 0 1x9"}, "9m", False)),
        "5m",
    ),
    Alert(
        "BudgatewayUpstreamFlapping",
        "increase(budgateway_upstream_ejections_total[30m]) > 3",
        "ticket",
        "Upstream {{ $labels.upstream }} is ejected again and again",
        "{{ $value | humanize }} ejections within 30 minutes.",
        (
            Case({f'budgateway_upstream_ejections_total{{{ONE},upstream="a"}}': "0+1x30"}, "30m", True),
            Case({f'budgateway_upstream_ejections_total{{{ONE},upstream="a"}}': "0 1x30"}, "30m", False),
        ),
    ),
    Alert(
        "BudgatewayTruncatedStreams",
        'sum by (provider) (rate(budgateway_errors_total{outcome="truncated"}[15m])) '
        "/ (sum by (provider) (rate(budgateway_requests_total[15m])) > 0) > 0.005",
        "ticket",
        "Provider {{ $labels.provider }} breaks off its answers",
        "{{ $value | humanizePercentage }} of its answers of the last 15 minutes ended in the middle.",
        (
            Case({_requests(): "0+100x20", _errors("truncated", "200"): "0+1x20"}, "20m", True),
            Case({_requests(): "0+1000x20", _errors("truncated", "200"): "0+1x20"}, "20m", False),
        ),
    ),
    Alert(
        "BudgatewayQueueing",
        "rate(budgateway_queue_wait_seconds_sum[5m]) / (rate(budgateway_queue_wait_seconds_count[5m]) > 0) > 1",
        "ticket",
        "Exchanges wait for provider {{ $labels.provider }}",
        "Those that had to wait waited {{ $value | humanizeDuration }} on average: its upstreams are full.",
        (
            Case(
                {
                    f'budgateway_queue_wait_seconds_sum{{{ONE},provider="p"}}': "0+120x30",
                    f'budgateway_queue_wait_seconds_count{{{ONE},provider="p"}}': "0+60x30",
                },
                "30m",
                True,
            ),
            Case(
                {
                    f'budgateway_queue_wait_seconds_sum{{{ONE},provider="p"}}': "0+6x30",
                    f'budgateway_queue_wait_seconds_count{{{ONE},provider="p"}}': "0+60x30",
                },
                "30m",
                False,
            ),
        ),
        "10m",
    ),
    Alert(
        "BudgatewayShedding",
        "max by (job, instance) (budgateway_worker_shedding) == 1",
        "page",
        "{{ $labels.instance }} refuses requests for overload",
        "At least one of its workers has refused new exchanges for a minute: memory, or a slow event loop.",
        (
            Case({f'budgateway_worker_shedding{{{ONE},worker="0"}}': "0 1x9"}, "9m", True),
            Case({f'budgateway_worker_shedding{{{ONE},worker="0"}}': "0 1 0x9"}, "9m", False),
        ),
        "1m",
    ),
    Alert(
        "BudgatewayWorkerRestarts",
        "increase(budgateway_worker_restarts_total[15m]) > 3",
        "ticket",
        "Workers of {{ $labels.instance }} die",
        "{{ $value | humanize }} were replaced within 15 minutes; the log has their exit status.",
        (
            Case({f"budgateway_worker_restarts_total{{{ONE}}}": "0+1x20"}, "20m", True),
            Case({f"budgateway_worker_restarts_total{{{ONE}}}": "0 1x20"}, "20m", False),
        ),
    ),
    Alert(
        "BudgatewayRedisAway",
        "max by (job, instance) (budgateway_store_away) == 1",
        "ticket",
        "{{ $labels.instance }} does not reach Redis",
        "Limits of several gateways are decided by on_store_failure meanwhile.",
        (
            Case({f'budgateway_store_away{{{ONE},worker="0"}}': "1x9"}, "9m", True),
            Case({f'budgateway_store_away{{{ONE},worker="0"}}': "1 1 0x9"}, "9m", False),
        ),
        "2m",
    ),
    Alert(
        "BudgatewayReloadFailed",
        "budgateway_config_last_reload_ok == 0",
        "ticket",
        "{{ $labels.instance }} refused its new configuration",
        "The previous one stays in use; the log has every problem, with file and key.",
        (
            Case({f"budgateway_config_last_reload_ok{{{ONE}}}": "0x9"}, "9m", True),
            Case({f"budgateway_config_last_reload_ok{{{ONE}}}": "0 0 1x9"}, "9m", False),
        ),
        "5m",
    ),
    Alert(
        "BudgatewayOverheadHigh",
        "histogram_quantile(0.99, sum by (job, instance, le) (rate(budgateway_overhead_seconds_bucket[5m]))) > 0.005",
        "ticket",
        "{{ $labels.instance }} itself is slow",
        "One in a hundred exchanges spends more than {{ $value | humanizeDuration }} in the gateway.",
        (
            Case(
                {
                    f'budgateway_overhead_seconds_bucket{{{ONE},route="r",le="0.005"}}': "0+9x30",
                    f'budgateway_overhead_seconds_bucket{{{ONE},route="r",le="0.02"}}': "0+90x30",
                    f'budgateway_overhead_seconds_bucket{{{ONE},route="r",le="+Inf"}}': "0+90x30",
                },
                "30m",
                True,
            ),
            Case(
                {
                    f'budgateway_overhead_seconds_bucket{{{ONE},route="r",le="0.001"}}': "0+90x30",
                    f'budgateway_overhead_seconds_bucket{{{ONE},route="r",le="+Inf"}}': "0+90x30",
                },
                "30m",
                False,
            ),
        ),
        "10m",
    ),
    Alert(
        "BudgatewayTablesFull",
        "budgateway_table_rows / budgateway_table_capacity > 0.9",
        "ticket",
        "A table of metrics of {{ $labels.instance }} is nearly full",
        "{{ $labels.table }} is {{ $value | humanizePercentage }} full: what finds no place is counted as `other`.",
        (
            Case(
                {
                    f'budgateway_table_rows{{{ONE},table="series"}}': "2000x5",
                    f'budgateway_table_capacity{{{ONE},table="series"}}': "2048x5",
                },
                "5m",
                True,
            ),
            Case(
                {
                    f'budgateway_table_rows{{{ONE},table="series"}}': "200x5",
                    f'budgateway_table_capacity{{{ONE},table="series"}}': "2048x5",
                },
                "5m",
                False,
            ),
        ),
    ),
    Alert(
        "BudgatewayCostSpike",
        "sum by (route) (increase(budgateway_cost_usd_total[1h])) > 10 "
        "and sum by (route) (increase(budgateway_cost_usd_total[1h])) > 3 * sum by (route) (increase(budgateway_cost_usd_total[7d])) / 168",
        "ticket",
        "Route {{ $labels.route }} costs more than usual",
        "{{ $value | humanize }} dollars within an hour: three times the mean of the last 7 days' hours.",
        (
            Case({_requests().replace("requests_total", "cost_usd_total"): "0x12 0+10x6"}, "180m", True),
            Case({_requests().replace("requests_total", "cost_usd_total"): "0+5x1014"}, "10100m", False),
        ),
        step="10m",
    ),
)
