"""A balancer passes to the selector what its policy needs to know, and nothing when it needs nothing."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from flavours import both_flavours

from budgateway.app.wiring import targets_of
from budgateway.exchange.exchange_cy import Exchange
from budgateway.native import VERDICT_FAILURE, VERDICT_NEUTRAL, VERDICT_SUCCESS, RequestHead, Segment, Selector
from budgateway.records import Provider, Upstream

balancing = both_flavours("budgateway.balance.balancer_cy")

NOTE = 3_000_000_000  # more than 32 bits
PROVIDER = Provider(
    "vllm", "vllm", tuple(Upstream(f"http://{name}:1", False, name, 1) for name in ("one", "two", "three"))
)


class Watched:
    """A selector whose policy needs everything: what it is passed is kept, and what it picks gets a note."""

    pins = False
    needs = ("request", "outcome")

    def __init__(self) -> None:
        segment = Segment()
        slots = [(segment.upstream(upstream.url), 1) for upstream in PROVIDER.upstreams]
        self.native = Selector(segment, 0, "round_robin", slots)
        self.passed: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.native, name)

    def pick_for(self, *asked: Any) -> int:
        self.passed.append(("pick_for", *asked))
        index = self.native.pick_for(*asked)
        return index if index < 0 else index | (NOTE + index) << 16

    def begun(self, *told: Any) -> None:
        self.passed.append(("begun", *told))
        self.native.begun(*told)

    def complete(self, *told: Any) -> None:
        self.passed.append(("complete", *told))
        self.native.complete(*told)

    def pick(self, *asked: Any) -> int:
        raise AssertionError("a policy that needs the request was not given it")

    release = pick


def exchange() -> Exchange:
    head = RequestHead.parse(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\n\r\n")
    x = Exchange(head, None, "127.0.0.1", 1000)
    x.ready_ns = 1000
    x.limit_key = "alice"
    x.model = "llama"
    x.body_bytes = 300
    x.streams = True
    return x


def test_a_policy_is_told_of_request_beginning_and_end(balancing: ModuleType) -> None:
    selector = Watched()
    balancer = balancing.Balancer(selector, targets_of(PROVIDER, {}), "vllm")
    x = exchange()
    assert balancer.next(x) is None
    assert (x.index, x.note) == (0, NOTE)
    assert balancer.another(x, VERDICT_FAILURE, 1100)
    assert (x.note - x.index, selector.in_flight(0), selector.in_flight(x.index)) == (NOTE, 0, 1)
    index, note = x.index, x.note
    balancer.answered(x, 1200)
    x.first_byte_ns = 1150
    balancer.release(x, VERDICT_SUCCESS, 1300)
    assert selector.passed == [
        ("pick_for", 1000, 0, None, "alice", "llama", 300, True),
        ("pick_for", 1100, 1, None, "alice", "llama", 300, True),
        ("complete", 0, VERDICT_FAILURE, 1100, NOTE, 1100, 0, None),
        ("begun", index, note, 1200),
        ("complete", index, VERDICT_SUCCESS, 1300, note, 1000, 1150, None),
    ]
    assert (x.index, [selector.in_flight(index) for index in range(3)]) == (-1, [0, 0, 0])


def test_a_hedge_is_told_of_as_a_request_of_its_own(balancing: ModuleType) -> None:
    selector = Watched()
    balancer = balancing.Balancer(selector, targets_of(PROVIDER, {}), "vllm")
    x = exchange()
    balancer.next(x)
    h = x.twin(1500)
    assert balancer.try_another(h, 1500)
    assert selector.passed[1] == ("pick_for", 1500, 1, None, "alice", "llama", 300, True)
    index, note = h.index, h.note
    balancer.release(x, VERDICT_NEUTRAL, 1600)
    x.become(h)
    assert (x.index, x.note) == (index, note)
    balancer.release(x, VERDICT_SUCCESS, 1700)
    assert [(told[1], told[4]) for told in selector.passed if told[0] == "complete"] == [(0, NOTE), (index, note)]


@pytest.mark.parametrize("policy", ["round_robin", "least_load"])
def test_pins_keep_exchanges_together_under_any_policy(balancing: ModuleType, policy: str) -> None:
    segment = Segment()
    slots = [(segment.upstream(upstream.url), 1) for upstream in PROVIDER.upstreams]
    selector = Selector(segment, 0, policy, slots, pins=[upstream.url for upstream in PROVIDER.upstreams])
    balancer = balancing.Balancer(selector, targets_of(PROVIDER, {}), "vllm")
    chosen = {}
    for turn in range(60):
        x = exchange()
        x.pin = f"session-{turn % 20}"
        balancer.next(x)
        assert chosen.setdefault(x.pin, x.index) == x.index
        balancer.release(x, VERDICT_NEUTRAL, 2000)
    assert set(chosen.values()) == {0, 1, 2}
    free = exchange()
    balancer.next(free)
    assert free.index >= 0
