"""Grafana's dashboards, as the JSON that Grafana imports and provisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 39  # Grafana 10.1 and later read it
SELECTOR = 'job=~"$job",instance=~"$instance"'
BY_ROUTE = f'{SELECTOR},route=~"$route",model=~"$model"'
WIDTH, HEIGHT = 24, 8  # of a row, of a panel


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries` are pairs of expression and legend."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard; `models` says whether its panels select models and routes."""

    uid: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[str, ...] = ()


def dashboard(one: Dashboard) -> dict[str, Any]:
    """Return a dashboard's JSON."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(one.panels, 1):
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        panels.append(_panel(number, panel, x, y))
        x += panel.width
    return {
        "uid": one.uid,
        "title": one.title,
        "tags": ["budgateway"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [
            {"type": "dashboards", "tags": ["budgateway"], "title": "budgateway", "asDropdown": True, "includeVars": True, "keepTime": True}
        ],
        "templating": {"list": [_datasource(), *(_variable(name) for name in ("job", "instance", *one.variables))]},
        "panels": panels,
    }  # fmt: skip


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(name: str) -> dict[str, Any]:
    of = {
        "job": "budgateway_build_info",
        "instance": 'budgateway_build_info{job=~"$job"}',
        "route": f"budgateway_requests_total{{{SELECTOR}}}",
        "model": f"budgateway_requests_total{{{SELECTOR}}}",
    }
    query = f"label_values({of[name]}, {name})"
    return {
        "name": name, "label": name.capitalize(), "type": "query", "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
        "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    datasource = {"type": "prometheus", "uid": "${datasource}"}
    is_heat = panel.kind == "heatmap"
    instant = panel.kind in ("table", "stat")
    targets = [
        {
            "refId": chr(ord("A") + place), "datasource": datasource, "expr": expr, "legendFormat": legend or "__auto",
            "exemplar": not instant, "instant": instant, "range": not instant,
            "format": "heatmap" if is_heat else "table" if panel.kind == "table" else "time_series",
        }
        for place, (expr, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": datasource,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": {}}, "overrides": []},
        "targets": targets,
        "options": dict(panel.options),
    }
    if panel.kind == "timeseries":
        made["fieldConfig"]["defaults"]["custom"] = {"fillOpacity": 10, "showPoints": "never"}
        made["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": len(panel.queries) > 1 or bool(panel.queries[0][1])},
            "tooltip": {"mode": "multi", "sort": "desc"},
        } | panel.options  # fmt: skip
    if is_heat:
        made["options"] = {
            "calculate": False,
            "yAxis": {"unit": panel.unit},
            "color": {"scheme": "Oranges"},
        } | panel.options
    return made


def _quantiles(metric: str, selector: str, by: str = "") -> tuple[tuple[str, str], ...]:
    labels = ", ".join(filter(None, ("le", by)))
    rate = f"sum by ({labels}) (rate({metric}_bucket{{{selector}}}[$__rate_interval]))"
    suffix = f" {{{{{by}}}}}" if by else ""
    return tuple((f"histogram_quantile({q}, {rate})", f"p{int(q * 100)}{suffix}") for q in (0.5, 0.95, 0.99))


def _rate(metric: str, selector: str, by: str, **more: str) -> tuple[tuple[str, str], ...]:
    chosen = "".join(f',{name}="{value}"' for name, value in more.items())
    return ((f"sum by ({by}) (rate({metric}{{{selector}{chosen}}}[$__rate_interval]))", f"{{{{{by}}}}}"),)


def _heat(metric: str, selector: str) -> tuple[tuple[str, str], ...]:
    return ((f"sum by (le) (increase({metric}_bucket{{{selector}}}[$__rate_interval]))", "{{le}}"),)


def _tokens(kind: str) -> str:
    return f'sum by (model) (rate(budgateway_tokens_total{{{BY_ROUTE},kind="{kind}"}}[$__rate_interval]))'


ERRORS = f'budgateway_errors_total{{{BY_ROUTE},outcome=~"upstream_failed|truncated"}}'
REFUSED = f'budgateway_errors_total{{{BY_ROUTE},outcome="refused",status=~"5.."}}'
ALL = f"sum(rate(budgateway_requests_total{{{BY_ROUTE}}}[$__rate_interval]))"
BAD_SHARE = f"(sum(rate({ERRORS}[$__rate_interval]) or rate({REFUSED}[$__rate_interval])) or 0 * {ALL}) / ({ALL} > 0)"

OVERVIEW = Dashboard(
    "budgateway-overview",
    "budgateway: overview",
    (
        Panel(
            "Requests", "Answered a second, by status.", "reqps", _rate("budgateway_requests_total", BY_ROUTE, "status")
        ),
        Panel(
            "Bad answers",
            "Share of exchanges that failed: not clients' mistakes, limits and leaving.",
            "percentunit",
            ((BAD_SHARE, ""),),
        ),
        Panel(
            "Error budget left",
            "Of 99.9 % within 30 days, by what failed in the last 3 days.",
            "percentunit",
            (('1 - max by (route) (route:budgateway_bad:ratio_rate3d{route=~"$route"}) / (1 - 0.999)', "{{route}}"),),
        ),
        Panel(
            "Time to first token", "Of streams.", "s", _quantiles("budgateway_time_to_first_token_seconds", BY_ROUTE)
        ),
        Panel(
            "Tokens",
            "A second; cached are part of in, reasoning of out.",
            "short",
            _rate("budgateway_tokens_total", BY_ROUTE, "kind"),
        ),
        Panel(
            "Cost",
            "Dollars an hour, of tokens with a known price.",
            "currencyUSD",
            (
                (
                    f"3600 * sum by (route) (rate(budgateway_cost_usd_total{{{BY_ROUTE}}}[$__rate_interval]))",
                    "{{route}}",
                ),
            ),
        ),
        Panel(
            "In flight",
            "Exchanges, by instance.",
            "short",
            ((f"sum by (instance) (budgateway_in_flight{{{SELECTOR}}})", "{{instance}}"),),
        ),
        Panel(
            "Outcomes other than complete", "A second.", "reqps", _rate("budgateway_errors_total", BY_ROUTE, "outcome")
        ),
        Panel(
            "Duration",
            "From the request's head to the last byte, of answers that are no streams.",
            "s",
            _quantiles("budgateway_request_duration_seconds", BY_ROUTE + ',stream="false"'),
        ),
        Panel(
            "Routes",
            "Requests a second by route and provider.",
            "reqps",
            ((f"sum by (route, provider) (rate(budgateway_requests_total{{{BY_ROUTE}}}[$__rate_interval]))", ""),),
            "table",
            24,
        ),
    ),
    ("route", "model"),
)

MODELS = Dashboard(
    "budgateway-models",
    "budgateway: models",
    (
        Panel("Time to first token", "Of streams, as a heat map.", "s", _heat("budgateway_time_to_first_token_seconds", BY_ROUTE), "heatmap", 12),
        Panel("Time per output token", "Of streams, after the first token.", "s", _heat("budgateway_time_per_output_token_seconds", BY_ROUTE), "heatmap", 12),
        Panel("Time to first token by model", "95th percentile.", "s", (_quantiles("budgateway_time_to_first_token_seconds", BY_ROUTE, "model")[1],)),
        Panel("Time per output token by model", "95th percentile.", "s", (_quantiles("budgateway_time_per_output_token_seconds", BY_ROUTE, "model")[1],)),
        Panel("Requests by model", "A second.", "reqps", _rate("budgateway_requests_total", BY_ROUTE, "model")),
        Panel("Tokens in", "A second.", "short", _rate("budgateway_tokens_total", BY_ROUTE, "model", kind="in")),
        Panel("Tokens out", "A second.", "short", _rate("budgateway_tokens_total", BY_ROUTE, "model", kind="out")),
        Panel(
            "Cached share",
            "Of the tokens in.",
            "percentunit",
            (
                (
                    f"{_tokens('cached')} / ({_tokens('in')} > 0)",
                    "{{model}}",
                ),
            ),
        ),
        Panel("Cost by model", "Dollars an hour.", "currencyUSD", ((f"3600 * sum by (model) (rate(budgateway_cost_usd_total{{{BY_ROUTE}}}[$__rate_interval]))", "{{model}}"),)),
        Panel("Size of requests", "Tokens in, of one exchange.", "short", _quantiles("budgateway_request_tokens", BY_ROUTE + ',kind="in"')),
        Panel("Size of answers", "Tokens out, of one exchange.", "short", _quantiles("budgateway_request_tokens", BY_ROUTE + ',kind="out"')),
    ),
    ("route", "model"),
)  # fmt: skip

UPSTREAMS = Dashboard(
    "budgateway-upstreams",
    "budgateway: upstreams",
    (
        Panel("State", "1 while it takes traffic.", "short", ((f"min by (upstream) (budgateway_upstream_up{{{SELECTOR}}})", "{{upstream}}"),), "state-timeline", 12),
        Panel("Breaker", "0 closed, 1 half open, 2 open.", "short", ((f"max by (upstream) (budgateway_upstream_breaker_state{{{SELECTOR}}})", "{{upstream}}"),), "state-timeline", 12),
        Panel("In flight", "Exchanges that the gateway has at each.", "short", ((f"sum by (upstream) (budgateway_upstream_in_flight{{{SELECTOR}}})", "{{upstream}}"),)),
        Panel("Engine", "Requests that the engine runs, and that wait in it.", "short", ((f"max by (upstream) (budgateway_upstream_running{{{SELECTOR}}})", "{{upstream}} runs"), (f"max by (upstream) (budgateway_upstream_waiting{{{SELECTOR}}})", "{{upstream}} waits"))),
        Panel("KV cache", "Share in use.", "percentunit", ((f"max by (upstream) (budgateway_upstream_kv_usage{{{SELECTOR}}})", "{{upstream}}"),)),
        Panel("Share of its weight", "Below 1 while it recovers.", "percentunit", ((f"min by (upstream) (budgateway_upstream_share{{{SELECTOR}}})", "{{upstream}}"),)),
        Panel("Ejections", "An hour.", "short", ((f"3600 * sum by (upstream) (rate(budgateway_upstream_ejections_total{{{SELECTOR}}}[$__rate_interval]))", "{{upstream}}"),)),
        Panel("Probes", "Duration of the last one.", "s", ((f"max by (upstream) (budgateway_upstream_probe_seconds{{{SELECTOR}}})", "{{upstream}}"),)),
        Panel("Retries", "Further attempts a second, by reason.", "reqps", _rate("budgateway_retries_total", SELECTOR, "reason")),
        Panel("Connections", "Idle and busy.", "short", ((f"sum(budgateway_upstream_connections_idle{{{SELECTOR}}})", "idle"), (f"sum(budgateway_upstream_connections_busy{{{SELECTOR}}})", "busy"))),
        Panel("URLs", "The upstreams' addresses.", "short", ((f"max by (upstream, provider, url) (budgateway_upstream_info{{{SELECTOR}}})", ""),), "table", 16),
    ),
)  # fmt: skip

LIMITS = Dashboard(
    "budgateway-limits",
    "budgateway: limits and queues",
    (
        Panel("Refused", "Requests a second, by status: 429 for limits, 401 and 403 for credentials, 503 for overload.", "reqps", _rate("budgateway_errors_total", BY_ROUTE, "status", outcome="refused"), width=12),
        Panel("Refused by code", "A second, by the error's code.", "reqps", _rate("budgateway_refusals_total", f'{SELECTOR},route=~"$route"', "code"), width=12),
        Panel("Queues", "Exchanges that wait for an upstream.", "short", ((f"sum by (provider) (budgateway_queue_depth{{{SELECTOR}}})", "{{provider}}"),)),
        Panel(
            "Wait",
            "Mean of those that had to wait.",
            "s",
            ((f"sum by (provider) (rate(budgateway_queue_wait_seconds_sum{{{SELECTOR}}}[$__rate_interval])) / (sum by (provider) (rate(budgateway_queue_wait_seconds_count{{{SELECTOR}}}[$__rate_interval])) > 0)", "{{provider}}"),),
        ),
        Panel("Left the queue without an upstream", "A second, by reason.", "reqps", _rate("budgateway_queue_unserved_total", SELECTOR, "reason")),
        Panel("Redis", "1 while it is away.", "short", ((f"max by (instance) (budgateway_store_away{{{SELECTOR}}})", "{{instance}}"),)),
        Panel("Redis: round trips", "A second.", "ops", _rate("budgateway_store_calls_total", SELECTOR, "instance")),
        Panel("Decisions without Redis", "A second.", "ops", _rate("budgateway_store_fallbacks_total", SELECTOR, "instance")),
    ),
    ("route", "model"),
)  # fmt: skip

GATEWAY = Dashboard(
    "budgateway-gateway",
    "budgateway: the gateway itself",
    (
        Panel("Overhead", "The gateway's own share of every exchange, as a heat map.", "s", _heat("budgateway_overhead_seconds", SELECTOR), "heatmap", 12),
        Panel("Overhead", "Percentiles.", "s", _quantiles("budgateway_overhead_seconds", SELECTOR), width=12),
        Panel("Memory", "Of each worker.", "bytes", ((f"budgateway_worker_resident_bytes{{{SELECTOR}}} > 0", "{{instance}} {{worker}}"),)),
        Panel("Connections", "Of clients.", "short", ((f"sum by (instance) (budgateway_connections{{{SELECTOR}}})", "{{instance}}"),)),
        Panel("Shedding", "1 while a worker refuses new exchanges.", "short", ((f"max by (instance) (budgateway_worker_shedding{{{SELECTOR}}})", "{{instance}}"),)),
        Panel("Restarts", "Of workers, an hour.", "short", ((f"3600 * sum by (instance) (rate(budgateway_worker_restarts_total{{{SELECTOR}}}[$__rate_interval]))", "{{instance}}"),)),
        Panel("Reloads", "An hour, by result.", "short", ((f"3600 * sum by (result) (rate(budgateway_config_reloads_total{{{SELECTOR}}}[$__rate_interval]))", "{{result}}"),)),
        Panel("Traced exchanges", "A second, by result.", "ops", _rate("budgateway_spans_total", SELECTOR, "result")),
        Panel("Tables", "Rows in use: what finds no place is counted as other.", "percentunit", ((f"max by (table) (budgateway_table_rows{{{SELECTOR}}} / budgateway_table_capacity{{{SELECTOR}}})", "{{table}}"),)),
        Panel("Lost access lines", "A second.", "ops", _rate("budgateway_access_lines_lost_total", SELECTOR, "instance")),
        Panel("Versions", "What runs.", "short", ((f"count by (version, python, profile) (budgateway_build_info{{{SELECTOR}}})", ""),), "table"),
    ),
)  # fmt: skip

DASHBOARDS = (OVERVIEW, MODELS, UPSTREAMS, LIMITS, GATEWAY)
