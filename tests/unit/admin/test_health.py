"""The state of upstreams as the back office tells it."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic_ns

from budgateway import native
from budgateway.admin.health import Health
from budgateway.records import BreakerSettings, Provider, Settings, Upstream

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
    health.adopt(replace(SETTINGS, providers=SETTINGS.providers[1:]))
    assert [shown["name"] for shown in health.upstreams()] == ["solo"]
