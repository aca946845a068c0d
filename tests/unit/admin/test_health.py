"""The state of upstreams as the admin endpoints report it."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic_ns

import pytest

from budgateway import native
from budgateway.admin.health import Health, probing
from budgateway.app.wiring import upstream_keys
from budgateway.config.endpoint import parse_endpoint
from budgateway.records import (
    BreakerSettings,
    Fallback,
    HealthCheck,
    OutlierSettings,
    Provider,
    Retries,
    Route,
    Secret,
    Settings,
    Upstream,
)
from budgateway.system.slices import at_once

ONE, TWO = (Upstream(url=f"http://u{n}:1", tls=False, host=f"u{n}", port=1) for n in (1, 2))
SETTINGS = Settings(
    providers=(Provider(name="vllm", kind="vllm", upstreams=(ONE, TWO)), Provider("solo", "openai", (ONE,))),
    breaker=BreakerSettings(failure_threshold=2, open_s=60.0),
)


def test_a_breaker_opened_by_a_worker_shows() -> None:
    segment = native.Segment(2)
    health = Health(segment, SETTINGS)
    worker = native.Selector(segment, 1, "round_robin", [(segment.upstream(ONE.url), 1)], failure_threshold=2)
    for _ in range(2):
        worker.release(worker.pick(monotonic_ns()), native.VERDICT_FAILURE, monotonic_ns())
    assert [shown["state"] for shown in health.upstreams()] == ["open", "up", "open"]
    assert [(shown["name"], shown["status"]) for shown in health.providers()] == [
        ("vllm", "degraded"),
        ("solo", "down"),
    ]


def test_in_flight_is_of_all_workers() -> None:
    segment = native.Segment(2)
    health = Health(segment, SETTINGS)
    for row in (0, 1):
        native.Selector(segment, row, "round_robin", [(segment.upstream(TWO.url), 1)]).pick(monotonic_ns())
    assert [shown["in_flight"] for shown in health.upstreams()] == [0, 2, 0]


def test_drain_is_by_name_and_undoes() -> None:
    health = Health(native.Segment(1), SETTINGS)
    assert health.drain("nobody", True) == []
    assert [shown["name"] for shown in health.drain("vllm/1", True)] == ["vllm/1"]
    assert [shown["drained"] for shown in health.upstreams()] == [False, True, False]
    assert [shown["state"] for shown in health.drain("vllm", False)] == ["up", "starting"]


def test_a_reload_changes_what_is_shown() -> None:
    health = Health(native.Segment(1), SETTINGS)
    at_once(health.adopting(replace(SETTINGS, providers=SETTINGS.providers[1:])))
    assert [shown["name"] for shown in health.upstreams()] == ["solo"]


def test_what_keeps_traffic_away_has_one_word_and_a_reason() -> None:
    segment = native.Segment(1)
    health = Health(segment, replace(SETTINGS, outliers=OutlierSettings(), breaker=None))
    slots = [segment.upstream(one.url) for one in (ONE, TWO)]
    now = monotonic_ns()
    pair = native.Selector(segment, 0, "random", [(slot, 1) for slot in slots], eject_after=1)

    def states() -> list[str]:
        return [shown["state"] for shown in health.providers()[0]["upstreams"]]

    segment.judge(slots[0], False, now)
    assert states() == ["unhealthy", "up"]
    segment.judge(slots[0], True, now)
    assert states() == ["starting", "up"]
    pair.pick(now, 0b01)
    pair.release(1, native.VERDICT_FAILURE, now)
    assert states() == ["starting", "ejected"]
    assert health.providers()[0]["upstreams"][1]["ejections"]["count"] == 1
    assert (health.providers()[0]["status"], health.providers()[0]["panic"]) == ("degraded", False)
    segment.judge(slots[0], False, now)
    assert (health.providers()[0]["status"], health.providers()[0]["panic"]) == ("down", True)


def test_a_pause_that_was_asked_for_is_no_ejection() -> None:
    segment = native.Segment(1)
    health = Health(segment, replace(SETTINGS, outliers=OutlierSettings(), breaker=None))
    pair = native.Selector(segment, 0, "random", [(segment.upstream(one.url), 1) for one in (ONE, TWO)], eject_after=5)
    assert pair.rest(0, 5 * 10**9, monotonic_ns())
    shown = health.upstreams()[0]
    assert (shown["state"], shown["ejections"]["count"]) == ("resting", 0)


def test_a_route_is_without_upstream_when_it_lasts() -> None:
    segment = native.Segment(1)
    routes = (Route(name="chat", path="/v1/chat/completions", provider="vllm"), Route("solo", "/solo", "solo"))
    health = Health(segment, replace(SETTINGS, routes=routes, breaker=None))
    now = monotonic_ns()
    segment.judge(segment.upstream(ONE.url), False, now)
    assert health.routes_without_upstream(100.0) == []
    assert health.routes_without_upstream(104.9) == []
    assert health.routes_without_upstream(105.0) == ["solo"]
    segment.judge(segment.upstream(TWO.url), False, now)
    assert health.routes_without_upstream(106.0) == ["solo"]
    segment.judge(segment.upstream(ONE.url), True, now)
    assert health.routes_without_upstream(120.0) == []
    segment.judge(segment.upstream(ONE.url), False, now)
    assert health.routes_without_upstream(121.0) == []


def test_a_route_whose_fallback_or_other_share_is_there_is_not_without() -> None:
    segment = native.Segment(1)
    backup = Retries(fallbacks=(Fallback("solo"),))
    routes = (
        Route("falls", "/a", "vllm", retries=backup),
        Route("falls_on_429", "/b", "vllm", retries=replace(backup, fallback_on=("429",))),
        Route("split", "/c", "vllm", split=(("vllm", 9), ("solo", 1))),
        Route("not_yet", "/d", "vllm", split=(("vllm", 9), ("solo", 0))),
    )
    providers = (Provider("vllm", "vllm", (ONE,)), Provider("solo", "openai", (TWO,)))
    health = Health(segment, Settings(providers=providers, routes=routes))
    segment.judge(segment.upstream(ONE.url), False, monotonic_ns())
    assert health.routes_without_upstream(100.0) == []
    assert health.routes_without_upstream(105.0) == ["falls_on_429", "not_yet"]
    segment.judge(segment.upstream(TWO.url), False, monotonic_ns())
    assert health.routes_without_upstream(110.0) == ["falls_on_429", "not_yet"]
    assert health.routes_without_upstream(115.0) == ["falls", "falls_on_429", "not_yet", "split"]


def test_who_asks_a_shared_upstream_otherwise_has_a_word_of_its_own() -> None:
    check = HealthCheck()
    providers = (
        Provider("blind", "openai", (ONE,)),
        Provider("first", "openai", (ONE, TWO), health_check=check),
        Provider("alike", "openai", (ONE,), health_check=replace(check, interval_s=3.0)),
        Provider("strict", "openai", (ONE,), health_check=replace(check, body="ready")),
        Provider("keyed", "openai", (ONE,), health_check=check, api_key=Secret("k")),
    )
    settings = Settings(providers=providers)
    keys = upstream_keys(settings)
    assert {name: key for (name, url), key in keys.items() if url == ONE.url} == {
        "blind": ONE.url,
        "first": ONE.url,
        "alike": ONE.url,
        "strict": f"{ONE.url} strict",
        "keyed": f"{ONE.url} keyed",
    }
    segment = native.Segment(1)
    wanted, upstreams = at_once(probing(settings, segment))
    slots = {one.name: one.slot for one in wanted}
    assert slots["first/0"] == slots["alike"] == segment.upstream(ONE.url)
    assert len({slots["first/0"], slots["strict"], slots["keyed"]}) == 3
    assert len(upstreams) == 6
    segment.judge(slots["strict"], False, monotonic_ns())
    shown = {one["name"]: one["state"] for one in Health(segment, settings).upstreams()}
    assert [name for name, state in shown.items() if state == "unhealthy"] == ["strict"]


@pytest.mark.parametrize(
    ("endpoint", "asked", "sent"),
    [
        ("http://gpu:8000", "/health", "/health"),
        ("http://gpu:8000/v1", "/health", "/health"),
        ("http://gpu:8000/v1/", "/metrics", "/metrics"),
        ("http://gpu:8000/v1", "/v1/models", "/v1/models"),
        ("http://gpu:8000/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("http://gpu:8000/engine/v1", "/health", "/engine/health"),
        ("http://gpu:8000/engine/v1", "/v1/models", "/engine/v1/models"),
        ("http://gpu:8000/engine", "/health", "/engine/health"),
    ],
)
def test_an_endpoint_that_ends_in_v1_is_probed_where_engines_answer(endpoint: str, asked: str, sent: str) -> None:
    provider = Provider("p", "vllm", (parse_endpoint(endpoint),), health_check=HealthCheck())
    [one], _ = at_once(probing(Settings(providers=(provider,)), native.Segment(1)))
    head = native.RequestHead.parse(f"GET {asked} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert one.target.write_head(head, "id", -1).startswith(f"GET {sent} HTTP/1.1\r\n".encode())
