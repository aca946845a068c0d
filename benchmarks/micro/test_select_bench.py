"""One pick of 16 upstreams by four workers' counts, beside what a Python user would write."""

from __future__ import annotations

import random
import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway._native import VERDICT_SUCCESS, Segment, Selector

UPSTREAMS = 16
POLICIES = ["round_robin", "weighted", "least_connections", "random", "power_of_two", "least_load"]
NOW_NS = time.monotonic_ns()


def selector(policy: str) -> Selector:
    segment = Segment(4)
    upstreams = [(segment.upstream(f"http://vllm-{number}:8000"), 1 + number % 3) for number in range(UPSTREAMS)]
    for worker in range(1, 4):
        other = Selector(segment, worker, "random", upstreams)
        for _ in range(100):
            other.pick(NOW_NS)
    return Selector(
        segment, 0, policy, upstreams,
        failure_threshold=5, failure_ratio=0.5, eject_after=5, slow_start_ns=10_000_000_000,
    )  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
def test_pick_native(benchmark: BenchmarkFixture, policy: str) -> None:
    pick = selector(policy).pick
    assert benchmark.pedantic(pick, (NOW_NS,), rounds=200, iterations=5000, warmup_rounds=5) >= 0


@pytest.mark.parametrize("policy", POLICIES)
def test_pick_native_while_one_starts_slowly(benchmark: BenchmarkFixture, policy: str) -> None:
    chosen = selector(policy)
    chosen.drain(3, True)
    chosen.drain(3, False, NOW_NS - 5_000_000_000)
    assert benchmark.pedantic(chosen.pick, (NOW_NS,), rounds=200, iterations=5000, warmup_rounds=5) >= 0


def test_release_native(benchmark: BenchmarkFixture) -> None:
    release = selector("random").release
    benchmark.pedantic(release, (0, VERDICT_SUCCESS, NOW_NS), rounds=200, iterations=5000, warmup_rounds=5)


def test_pick_random_choices(benchmark: BenchmarkFixture) -> None:
    urls = [f"http://vllm-{number}:8000" for number in range(UPSTREAMS)]
    weights = [1 + number % 3 for number in range(UPSTREAMS)]
    benchmark.pedantic(random.choices, (urls, weights), rounds=200, iterations=2000, warmup_rounds=5)


def test_pick_min_of_a_dict(benchmark: BenchmarkFixture) -> None:
    in_flight = {f"http://vllm-{number}:8000": random.randrange(100) for number in range(UPSTREAMS)}
    benchmark.pedantic(min, (in_flight,), {"key": in_flight.__getitem__}, rounds=200, iterations=2000, warmup_rounds=5)
