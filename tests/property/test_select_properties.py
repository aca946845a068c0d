"""Selection against the textbooks: turns, weights, loads, breakers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from oracles.balance import SmoothRoundRobin, least_loaded
from oracles.breaker import Breaker, Verdict

from budgateway._native import VERDICT_FAILURE, VERDICT_NEUTRAL, VERDICT_SUCCESS, Segment, Selector

VERDICTS: dict[Verdict, int] = {"neutral": VERDICT_NEUTRAL, "success": VERDICT_SUCCESS, "failure": VERDICT_FAILURE}
POLICIES = ["round_robin", "weighted", "least_connections", "random", "power_of_two"]
NS_PER_MS = 10**6

weight_lists = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def slots(segment: Segment, weights: list[int]) -> list[tuple[int, int]]:
    return [(segment.upstream(f"http://upstream-{index}"), weight) for index, weight in enumerate(weights)]


@given(weights=weight_lists, data=st.data())
def test_weighted_turns_are_nginxs(weights: list[int], data: st.DataObject) -> None:
    segment = Segment()
    drained = data.draw(st.sets(st.integers(0, len(weights) - 1), max_size=len(weights) - 1))
    among = [index for index in range(len(weights)) if index not in drained]
    selector = Selector(segment, 0, "weighted", slots(segment, weights))
    oracle = SmoothRoundRobin(weights)
    for index in drained:
        selector.drain(index, True)
    assert [selector.pick(0) for _ in range(100)] == [oracle.pick(among) for _ in range(100)]


@given(
    weights=weight_lists,
    policy=st.sampled_from(POLICIES),
    drained=st.sets(st.integers(0, 5)),
    tried=st.integers(0, 63),
    seed=st.integers(0, 2**64 - 1),
)
def test_only_what_may_be_chosen_is(weights: list[int], policy: str, drained: set[int], tried: int, seed: int) -> None:
    segment = Segment()
    selector = Selector(segment, 0, policy, slots(segment, weights), seed=seed)
    for index in drained & set(range(len(weights))):
        selector.drain(index, True)
    left = {index for index in range(len(weights)) if index not in drained and not tried >> index & 1}
    picked = {selector.pick(0, tried) for _ in range(20)}
    assert picked <= (left or {-1})


@given(weights=weight_lists, policy=st.sampled_from(POLICIES), rounds=st.integers(1, 5))
def test_in_flight_returns_to_zero(weights: list[int], policy: str, rounds: int) -> None:
    segment = Segment()
    selector = Selector(segment, 0, policy, slots(segment, weights))
    picked = [selector.pick(0) for _ in range(rounds * len(weights))]
    assert [selector.in_flight(index) for index in range(len(weights))] == [
        picked.count(index) for index in range(len(weights))
    ]
    for index in picked:
        selector.release(index, VERDICT_SUCCESS, 0)
    assert not any(selector.in_flight(index) for index in range(len(weights)))


class LeastConnections(RuleBasedStateMachine):
    """Two workers pick and release; one may die; every pick is one of the least loaded of all workers' view."""

    @initialize(weights=weight_lists)
    def start(self, weights: list[int]) -> None:
        self.segment = Segment(2)
        self.weights = weights
        self.workers = [
            Selector(self.segment, worker, "least_connections", slots(self.segment, weights)) for worker in (0, 1)
        ]
        self.held: list[list[int]] = [[], []]
        self.drained: set[int] = set()

    def loads(self) -> list[int]:
        return [sum(held.count(index) for held in self.held) for index in range(len(self.weights))]

    @rule(worker=st.integers(0, 1), tried=st.integers(0, 63))
    def pick(self, worker: int, tried: int) -> None:
        among = [i for i in range(len(self.weights)) if i not in self.drained and not tried >> i & 1]
        picked = self.workers[worker].pick(0, tried)
        if not among:
            assert picked == -1
            return
        assert picked in least_loaded(self.loads(), self.weights, among)
        self.held[worker].append(picked)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([worker for worker in (0, 1) if self.held[worker]]))
        at = data.draw(st.integers(0, len(self.held[worker]) - 1))
        self.workers[worker].release(self.held[worker].pop(at), VERDICT_NEUTRAL, 0)

    @rule(data=st.data(), drained=st.booleans())
    def drain(self, data: st.DataObject, drained: bool) -> None:
        index = data.draw(st.integers(0, len(self.weights) - 1))
        self.workers[0].drain(index, drained)
        (self.drained.add if drained else self.drained.discard)(index)

    @rule(worker=st.integers(0, 1))
    def die(self, worker: int) -> None:
        self.segment.clear_worker(worker)
        self.held[worker].clear()

    @invariant()
    def everybody_sees_all(self) -> None:
        if hasattr(self, "workers"):
            for worker in self.workers:
                assert [worker.in_flight(index) for index in range(len(self.weights))] == self.loads()


class BreakerMachine(RuleBasedStateMachine):
    """One upstream, two workers, one breaker."""

    @initialize(threshold=st.integers(1, 3), open_ms=st.integers(1, 20), probes=st.integers(1, 3))
    def start(self, threshold: int, open_ms: int, probes: int) -> None:
        segment = Segment(2)
        self.workers = [
            Selector(
                segment,
                worker,
                "round_robin",
                slots(segment, [1]),
                failure_threshold=threshold,
                open_ns=open_ms * NS_PER_MS,
                half_open_max_calls=probes,
            )
            for worker in (0, 1)
        ]
        self.oracle = Breaker(threshold, open_ms, probes)
        self.now_ms = 1000

    @rule(worker=st.integers(0, 1))
    def pick(self, worker: int) -> None:
        assert (self.workers[worker].pick(self.now_ms * NS_PER_MS) == 0) == self.oracle.permit(self.now_ms)

    @rule(worker=st.integers(0, 1), verdict=st.sampled_from(list(VERDICTS)))
    def release(self, worker: int, verdict: Verdict) -> None:
        self.workers[worker].release(0, VERDICTS[verdict], self.now_ms * NS_PER_MS)
        self.oracle.record(verdict, self.now_ms)

    @rule(pause_ms=st.integers(1, 25))
    def wait(self, pause_ms: int) -> None:
        self.now_ms += pause_ms

    @invariant()
    def everybody_sees_one_state(self) -> None:
        if hasattr(self, "workers"):
            for worker in self.workers:
                assert worker.state(0, self.now_ms * NS_PER_MS) == self.oracle.state(self.now_ms)


TestLeastConnections = LeastConnections.TestCase
TestBreaker = BreakerMachine.TestCase
