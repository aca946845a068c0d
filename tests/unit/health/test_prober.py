"""The watch on upstreams: what is asked, and what the segment learns of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from time import monotonic_ns

import pytest

from budgateway import native
from budgateway.errors import GatewayError, OutOfResources, ResolverUnavailable, UpstreamConnectError
from budgateway.health.prober import ProbedUpstream, Prober
from budgateway.records import HealthCheck

QUICK = HealthCheck(interval_s=0.02, unhealthy_threshold=2, healthy_threshold=1)


class Engines:
    """Answers by upstream and path; an Exception is raised, None is silence."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, bytes] | Exception | None] = {}
        self.asked: list[tuple[str, str, bytes | None]] = []

    async def ask(self, target: str, path: str, timeout_s: float, body: bytes | None = None) -> tuple[int, bytes]:
        self.asked.append((target, path, body))
        answer = self.answers.get((target, path), (404, b""))
        if answer is None:
            async with asyncio.timeout(timeout_s):
                await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        return answer


class Rig:
    """Two upstreams, `a` and `b`, watched."""

    def __init__(self, check: HealthCheck = QUICK) -> None:
        self.segment = native.Segment(1)
        self.engines = Engines()
        self.departures = Prober(self.segment, self.engines.ask, lambda: 0.0)
        self.slots = [self.segment.upstream(name) for name in "ab"]
        self.selector = native.Selector(self.segment, 0, "round_robin", [(slot, 1) for slot in self.slots])
        for name in "ab":
            self.engines.answers[(name, "/health")] = (200, b"")
        self.adopt(check)

    def adopt(self, check: HealthCheck, names: str = "ab") -> None:
        wanted = [ProbedUpstream(name, self.slots["ab".index(name)], name, check) for name in names]
        self.departures.adopt(wanted, [(one.slot, True) for one in wanted])

    def healthy(self) -> list[bool | None]:
        return [self.selector.look(index, monotonic_ns()).healthy for index in (0, 1)]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.005)


async def test_answers_reach_the_segment() -> None:
    rig = Rig()
    await rig.until(lambda: rig.healthy() == [True, True])
    rig.engines.answers[("b", "/health")] = UpstreamConnectError("upstream b: connection refused")
    await rig.until(lambda: rig.healthy() == [True, False])
    assert {rig.selector.pick(monotonic_ns()) for _ in range(4)} == {0}
    watched = rig.departures.of(rig.slots[1])
    assert watched is not None
    assert watched.state.reason == "connection refused"
    rig.engines.answers[("b", "/health")] = (200, b"")
    await rig.until(lambda: rig.healthy() == [True, True])
    await rig.departures.close()


async def test_who_is_suspected_is_asked_at_once_and_out_when_silent() -> None:
    rig = Rig(HealthCheck(interval_s=3600, timeout_s=30))
    await rig.until(lambda: rig.healthy() == [True, True])
    rig.engines.answers[("a", "/health")] = None
    rig.selector.suspect(0, monotonic_ns())
    await rig.until(lambda: rig.healthy() == [False, True])
    await rig.departures.close()


async def test_a_suspicion_hurries_the_question_that_is_out() -> None:
    rig = Rig(HealthCheck(interval_s=0.02, timeout_s=30))
    await rig.until(lambda: rig.healthy() == [True, True])
    rig.engines.answers[("a", "/health")] = None
    watched = rig.departures.of(rig.slots[0])
    assert watched is not None
    await rig.until(lambda: watched.timer is not None)
    rig.selector.suspect(0, monotonic_ns())
    await rig.until(lambda: rig.healthy() == [False, True])
    await rig.departures.close()


async def test_a_suspicion_does_not_wait_for_a_list_of_models() -> None:
    """Whoever stops between its probe and its list is asked how it is as soon as anybody else that stops."""
    rig = Rig(HealthCheck(interval_s=3600, timeout_s=30))
    rig.engines.answers[("a", "/v1/models")] = None
    await rig.until(lambda: ("a", "/v1/models", None) in rig.engines.asked)
    assert rig.healthy()[0] is True
    rig.engines.answers[("a", "/health")] = None
    rig.selector.suspect(0, monotonic_ns())
    await rig.until(lambda: rig.healthy()[0] is False)
    await rig.departures.close()


async def test_a_suspect_that_answers_stays() -> None:
    rig = Rig(HealthCheck(interval_s=3600))
    await rig.until(lambda: rig.healthy() == [True, True])
    watched = rig.departures.of(rig.slots[0])
    assert watched is not None
    rig.selector.suspect(0, monotonic_ns())
    await rig.until(lambda: watched.state.probes == 2)
    assert (rig.healthy(), watched.suspicions) == ([True, True], 1)
    await rig.departures.close()


async def test_models_and_load_are_read_on_the_way() -> None:
    rig = Rig(HealthCheck(interval_s=0.02, load_paths=("/metrics", "/v1/loads")))
    rig.engines.answers[("a", "/v1/models")] = (200, json.dumps({"data": [{"id": "qwen"}]}).encode())
    rig.engines.answers[("b", "/v1/models")] = (200, json.dumps({"data": [{"id": "llama"}]}).encode())
    rig.engines.answers[("a", "/metrics")] = (200, b"vllm:num_requests_running 4\n")
    report = json.dumps({"loads": [{"num_running_reqs": 7, "num_waiting_reqs": 1}]}).encode()
    rig.engines.answers[("b", "/v1/loads")] = (200, report)
    look = rig.selector.look
    await rig.until(lambda: all(look(index, monotonic_ns()).signals for index in (0, 1)))
    assert [look(index, monotonic_ns()).signals for index in (0, 1)] == [(4, 0, 0.0), (7, 1, 0.0)]
    await rig.until(lambda: (rig.selector.lacking("qwen"), rig.selector.lacking("llama")) == (0b10, 0b01))
    # Found once, it is asked for there alone.
    before = rig.engines.asked.count(("b", "/metrics", None))
    count = rig.engines.asked.count(("b", "/v1/loads", None))
    await rig.until(lambda: rig.engines.asked.count(("b", "/v1/loads", None)) > count + 2)
    assert rig.engines.asked.count(("b", "/metrics", None)) == before
    await rig.departures.close()


async def test_a_load_that_is_told_no_more_is_forgotten() -> None:
    rig = Rig(HealthCheck(interval_s=0.02, load_paths=("/metrics",)))
    rig.engines.answers[("a", "/metrics")] = (200, b"vllm:num_requests_running 4\n")
    await rig.until(lambda: rig.selector.look(0, monotonic_ns()).signals == (4, 0, 0.0))
    rig.engines.answers[("a", "/metrics")] = UpstreamConnectError("upstream a: connection refused")
    before = rig.engines.asked.count(("a", "/metrics", None))
    await rig.until(lambda: rig.selector.look(0, monotonic_ns()).signals is None)
    # One that goes missing is no reason.
    assert rig.engines.asked.count(("a", "/metrics", None)) >= before + 3
    rig.engines.answers[("a", "/metrics")] = (200, b"vllm:num_requests_running 5\n")
    await rig.until(lambda: rig.selector.look(0, monotonic_ns()).signals == (5, 0, 0.0))
    await rig.departures.close()


async def test_a_pattern_among_the_models_means_any() -> None:
    rig = Rig()
    rig.engines.answers[("a", "/v1/models")] = (200, json.dumps({"data": [{"id": "openai/*"}]}).encode())
    watched = rig.departures.of(rig.slots[0])
    assert watched is not None
    await rig.until(lambda: watched.models == ["openai/*"])
    assert rig.selector.lacking("gpt-4o") == 0
    await rig.departures.close()


async def test_a_token_is_generated_where_that_is_asked_for() -> None:
    rig = Rig(HealthCheck(interval_s=0.02, generate_model="qwen"))
    rig.engines.answers[("a", "/v1/chat/completions")] = (200, b"{}")
    await rig.until(lambda: rig.healthy()[0] is True)
    posted = [body for target, path, body in rig.engines.asked if (target, path) == ("a", "/v1/chat/completions")]
    assert posted[0] is not None
    assert (json.loads(posted[0])["model"], json.loads(posted[0])["max_tokens"]) == ("qwen", 1)
    await rig.departures.close()


async def test_an_answer_that_goes_wrong_does_not_end_the_questions() -> None:
    rig = Rig()
    rig.engines.answers[("a", "/health")] = RuntimeError("no such thing")
    watched = rig.departures.of(rig.slots[0])
    assert watched is not None
    await rig.until(lambda: rig.engines.asked.count(("a", "/health", None)) > 2)
    rig.engines.answers[("a", "/health")] = (200, b"")
    await rig.until(lambda: rig.healthy() == [True, True])
    await rig.departures.close()


async def test_a_reload_keeps_what_is_known_and_forgets_who_left() -> None:
    rig = Rig()
    rig.engines.answers[("b", "/health")] = (500, b"")
    await rig.until(lambda: rig.healthy() == [True, False])
    rig.adopt(QUICK, "b")
    assert rig.healthy() == [None, False]
    rig.adopt(QUICK, "")
    assert rig.healthy() == [None, None]
    # New beside others: slowly.
    ramp = native.Selector(rig.segment, 0, "random", [(rig.slots[0], 1)], slow_start_ns=10**10)
    assert ramp.look(0, monotonic_ns()).share == 1
    rig.adopt(QUICK, "a")
    assert ramp.look(0, monotonic_ns()).share < 0.5
    await rig.departures.close()
    await rig.departures.close()


@pytest.mark.parametrize("error", [OutOfResources("no descriptors"), ResolverUnavailable("no resolver")])
async def test_what_the_gateway_lacks_says_nothing(error: GatewayError, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(HealthCheck(interval_s=0.02, unhealthy_threshold=1, healthy_threshold=1, load_paths=("/metrics",)))
    rig.engines.answers[("b", "/metrics")] = (200, b"vllm:num_requests_running 3\n")
    await rig.until(lambda: rig.healthy() == [True, True] and rig.departures.of(rig.slots[1]).load is not None)  # type: ignore[union-attr]
    watched = rig.departures.of(rig.slots[1])
    assert watched is not None
    rig.engines.answers[("b", "/health")] = error
    rig.engines.answers[("b", "/metrics")] = error
    asked = len(rig.engines.asked)
    await rig.until(lambda: [one[0] for one in rig.engines.asked[asked:]].count("b") > 10)
    probes = watched.state.probes
    rig.segment.suspect(rig.slots[1], monotonic_ns())
    await rig.until(lambda: watched.suspicions == 1)
    assert rig.healthy() == [True, True]
    assert watched.state.probes == probes
    assert watched.load is not None
    # It is said, and said once.
    assert caplog.text.count("upstream b cannot be probed") == 1
    rig.engines.answers[("b", "/health")] = UpstreamConnectError("upstream b: connection refused")
    await rig.until(lambda: rig.healthy() == [True, False])
    await rig.departures.close()
