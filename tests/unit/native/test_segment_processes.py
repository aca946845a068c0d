"""One segment, several processes: nothing is counted twice, lost, or left behind by the dead."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from budgateway._native import (
    BY_MODEL,
    BY_USER,
    VERDICT_SUCCESS,
    LimitSet,
    Metrics,
    Peeker,
    Price,
    RateLimit,
    Reservation,
    Segment,
    Selector,
)

PROCESSES = 4
TESTS = Path(__file__).resolve().parents[2]
NOW_NS = 10**15

# Attaches the descriptor it was given, waits for the word, does its part and prints what came of it.
CHILD = """
import json, random, sys, time
from budgateway._native import RateLimit, Segment, Selector
worker = int(sys.argv[2])
segment = Segment.attach(int(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def children(segment: Segment, work: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that hammer one segment, all let loose together."""
    with ExitStack() as stack:
        started = []
        for worker in range(PROCESSES):
            command = [sys.executable, "-c", CHILD + work, str(segment.fd), str(worker)]
            child = subprocess.Popen(
                command, pass_fds=[segment.fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            started.append(child)
        for child in started:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in started:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        yield started


def results(segment: Segment, work: str) -> list[list[int]]:
    """Return the output of each process."""
    with children(segment, work) as started:
        return [json.loads(child.communicate(timeout=30)[0]) for child in started]


def test_one_key_admits_exactly_its_burst() -> None:
    segment = Segment(PROCESSES)
    work = f"""
limit = RateLimit(segment, "x", 60, 50_000)
print(json.dumps([sum(limit.take("key", 1, {NOW_NS}) >= 0 for _ in range(40_000))]))
"""
    admitted = results(segment, work)
    assert sum(count for (count,) in admitted) == 50_000
    assert RateLimit(segment, "x", 60, 50_000).take("key", 50_000, NOW_NS) == -50_000 * 10**9


def test_one_key_admits_its_burst_and_its_rate_while_time_runs() -> None:
    segment = Segment(PROCESSES)
    # A token every 10 us; each process goes through the same 300 ms, at its own pace.
    work = f"""
limit = RateLimit(segment, "x", 6_000_000, 10_000)
print(json.dumps([sum(limit.take("key", 1, {NOW_NS} + 10_000 * step) >= 0 for step in range(30_000))]))
"""
    admitted = sum(count for (count,) in results(segment, work))
    assert 40_000 - PROCESSES <= admitted <= 40_000


def test_many_keys_each_admit_exactly_their_burst() -> None:
    segment = Segment(PROCESSES)
    work = f"""
limit = RateLimit(segment, "x", 60, 10)
order = [f"key-{{number % 2000}}" for number in range(16_000)]
random.Random(worker).shuffle(order)
print(json.dumps([sum(limit.take(key, 1, {NOW_NS}) >= 0 for key in order)]))
"""
    assert sum(count for (count,) in results(segment, work)) == 2000 * 10


def test_labels_and_upstreams_are_the_same_everywhere() -> None:
    work = """
order = list(range(900))
random.Random(worker).shuffle(order)
ids = {number: (segment.intern(f"label-{number}"), segment.upstream(f"http://{number}")) for number in order}
print(json.dumps([id for number in range(900) for id in ids[number]]))
"""
    segment = Segment(PROCESSES)
    first, *others = results(segment, work)
    assert all(ids == first for ids in others)
    assert sorted(first[::2]) == list(range(1, 901))
    assert sorted(first[1::2]) == list(range(900))
    assert [segment.label(label) for label in first[::2]] == [f"label-{number}" for number in range(900)]


def test_turns_and_counts_add_up() -> None:
    segment = Segment(PROCESSES)
    weights = [5, 1, 1]
    upstreams = [(segment.upstream(f"http://{index}"), weight) for index, weight in enumerate(weights)]
    work = f"""
selector = Selector(segment, worker, "weighted", {upstreams})
sys.path.append({str(TESTS)!r})
from books import Books
books = Books(segment)
for _ in range(7000):
    index = selector.pick(0)
    books.enter(route=index, status=200, answer=b'{{"usage":{{"prompt_tokens":3,"completion_tokens":4}}}}')
for _ in range(700):
    selector.release(0, {VERDICT_SUCCESS}, 0)
print("[]")
"""
    results(segment, work)
    selector = Selector(segment, 0, "weighted", upstreams)
    picks = PROCESSES * 1000
    assert [selector.in_flight(index) for index in range(3)] == [5 * picks - PROCESSES * 700, picks, picks]
    collected = sorted(Metrics(segment).collect(), key=lambda series: -series.count)
    assert [series.count for series in collected] == [5 * picks, picks, picks]
    assert [series.tokens_out for series in collected] == [20 * picks, 4 * picks, 4 * picks]
    assert sum(sum(times.plain[0]) for times in Metrics(segment).times()) == 7 * picks


def test_a_limit_in_flight_is_never_exceeded() -> None:
    """Each process writes down when it held a place; laid over each other, there are never more than the limit."""
    segment = Segment(PROCESSES)
    upstream = (segment.upstream("http://0"), 1)
    work = f"""
selector = Selector(segment, worker, "least_connections", [{upstream}], max_in_flight=[3])
chance = random.Random(worker)
held, spans, refused = [], [], 0
while len(spans) < 5_000:
    if selector.pick(0) == 0:
        held.append(time.monotonic_ns())
    else:
        refused += 1
    if held and chance.random() < 0.5:
        spans += held.pop(), time.monotonic_ns()
        selector.release(0, 0, 0)
print(json.dumps([refused, len(held), *spans, *(at for began in held for at in (began, 2**62))]))
"""
    found = results(segment, work)
    assert sum(refused for refused, *_ in found) > 0, "they never met"
    moves = sorted(
        (at, step)
        for _, _, *spans in found
        for began, ended in zip(spans[::2], spans[1::2], strict=True)
        for at, step in ((began, 1), (ended, -1))
    )
    now = most = 0
    for _, step in moves:
        now += step
        most = max(most, now)
    assert most == 3
    selector = Selector(segment, 0, "least_connections", [upstream])
    assert selector.in_flight(0) == sum(left for _, left, *_ in found) <= 3


def test_the_last_place_goes_to_exactly_one() -> None:
    """All processes run for the same places, which nobody gives back: as many get one as there are."""
    segment = Segment(PROCESSES)
    upstreams = [(segment.upstream(f"http://{number}"), 1) for number in range(200)]
    work = f"""
selectors = [Selector(segment, worker, "random", [upstream], max_in_flight=[3]) for upstream in {upstreams}]
got = [0] * len(selectors)
for number, selector in enumerate(selectors):
    for _ in range(50):
        got[number] += selector.pick(0) == 0
print(json.dumps(got))
"""
    found = results(segment, work)
    assert [sum(got) for got in zip(*found, strict=True)] == [3] * 200


def test_the_killed_hold_nobody_up_and_leave_nothing() -> None:
    work = """
limit = RateLimit(segment, "x", 60, 10)
selector = Selector(segment, worker, "least_connections", [(segment.upstream("http://0"), 1)])
number = 0
while True:
    number += 1
    limit.take(f"{worker}-{number}", 1, time.monotonic_ns())
    segment.intern(f"label-{number % 3000}")
    selector.pick(0)
"""
    segment = Segment(PROCESSES)
    for round_ in range(3):
        selector = Selector(segment, 0, "least_connections", [(segment.upstream("http://0"), 1)])
        with children(segment, work) as started:
            for number, child in enumerate(started):
                while selector.in_flight(0) < 500 * (number + 1):
                    assert child.poll() is None
                child.kill()
                child.wait()
        for worker in range(PROCESSES):
            segment.clear_worker(worker)
        assert selector.in_flight(0) == 0
        limit = RateLimit(segment, f"after round {round_}", 60, 10)
        # A lock that died with its holder is open again a second later.
        later_ns = time.monotonic_ns() + 2 * 10**9
        assert all(limit.take(str(number), 1, later_ns) == 9 for number in range(20_000))
        assert segment.label(segment.intern("label-1")) in {"label-1", "other"}


# Asks for one thing or another, gives some of it back at once or at the end, and says what it held and still holds.
DECIDE = """
from budgateway._native import Reservation, LimitSet, Peeker, Price
dice = random.Random(SEED * 100 + worker)
limits = LimitSet(segment, worker, "r", RULES)
price, held = Price(1.0, 1.0, 1.0), []
for _ in range(1500):
    body = json.dumps({"max_tokens": dice.randrange(1, 30)}).encode()
    got = limits.decide("anna", "", "", "m", "", Peeker().peek(body), 40, price, NOW_NS, 20_780)
    if isinstance(got, Reservation):
        held.append(got)
        if dice.random() < 0.7:
            held.pop(dice.randrange(len(held))).undo()
debits = [0] * len(RULES)
for grant in held:
    for place, amount, _ in grant.debits():
        debits[place] += amount
print(json.dumps(debits), flush=True)
sys.stdin.readline()  # a process that ends lets go of what it holds
"""


@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    requests=st.integers(20, 400),
    tokens=st.integers(100, 4000),
    slots=st.integers(1, 60),
    micros=st.integers(100, 4000),
)
def test_decisions_of_several_processes_never_exceed_a_limit_and_lose_nothing(
    seed: int, requests: int, tokens: int, slots: int, micros: int
) -> None:
    """All at one moment, so that nothing refills: what all hold together is what is missing of each limit."""
    rules = [
        ("r", 0, "requests", 60, "minute", requests),
        ("t", BY_USER, "tokens", 60, "minute", tokens),
        ("c", BY_MODEL, "concurrency", slots, "", 0),
        ("s", BY_USER | BY_MODEL, "spend", micros, "month", 0),
    ]
    segment = Segment(PROCESSES)
    work = DECIDE.replace("RULES", repr(rules)).replace("SEED", str(seed)).replace("NOW_NS", str(NOW_NS))
    with children(segment, work) as started:
        printed = [child.stdout.readline() for child in started if child.stdout is not None]
        used = [sum(debits) for debits in zip(*map(json.loads, printed))]
        wholes = (requests, tokens, slots, micros)
        assert all(one <= whole for one, whole in zip(used, wholes)), (used, wholes)
        assert max(one / whole for one, whole in zip(used, wholes)) > 0.5, "they were pressed"
        assert [left_of(segment, rule, whole - one) for rule, one, whole in zip(rules, used, wholes)] == [
            whole - one for one, whole in zip(used, wholes)
        ]
        for child in started:
            child.communicate("end\n", timeout=30)


def left_of(segment: Segment, rule: tuple[str, int, str, int, str, int], at_most: int) -> int:
    """Return the remaining units of a limit, found by taking them."""
    limits = LimitSet(segment, 0, "r", [rule])
    taken, held = 0, []
    while taken <= at_most:
        # One unit each: a request, a lease, one token of the answer, a micro-dollar for it.
        got = limits.decide(
            "anna", "", "", "m", "", Peeker().peek(b'{"max_tokens":1}'), 0, Price(1.0, 1.0, 1.0), NOW_NS, 20_780
        )
        if not isinstance(got, Reservation):
            break
        held.append(got)
        taken += 1
    for grant in held:
        grant.undo()
    return taken
