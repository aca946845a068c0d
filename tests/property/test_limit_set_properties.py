"""Decisions over all limits of an exchange, against an oracle that looks, takes and settles in exact fractions."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from oracles.limits import Ask, Limit, SlowLimits
from oracles.limits import Refusal as SlowRefusal
from oracles.limits import Reservation as SlowReservation

from budgateway import native
from budgateway.native import LimitSet, Peeker, Price, Refusal, Reservation, Segment

START_NS = 10**15
TODAY = 20_780
# A unit takes a whole number of eighths of a nanosecond.
RATES = st.sampled_from([1, 6, 60, 1000, 48_000, 10**6])
BY = st.sampled_from([0, native.BY_USER, native.BY_MODEL, native.BY_USER | native.BY_MODEL])
BURSTS = st.integers(1, 12) | st.integers(50, 400)
A_TOKEN = Price(1.0, 1.0, 1.0)


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    kind = draw(st.sampled_from(["requests", "tokens", "concurrency", "spend"]))
    name, by = "", draw(BY)
    if kind == "concurrency":
        return name, by, kind, draw(st.integers(1, 4)), "", 0
    if kind == "spend":
        return name, by, kind, draw(st.integers(1, 1000)), draw(st.sampled_from(["day", "week", "month"])), 0
    period, times = draw(st.sampled_from([("minute", 1), ("hour", 60)]))
    return name, by, kind, draw(RATES) * times, period, draw(BURSTS)


asks = st.builds(
    Ask,
    st.sampled_from("ab"),
    st.sampled_from(["", "m", "n"]),
    st.integers(0, 60),
    st.integers(0, 300),
    st.booleans(),
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "settle", "undo", "drop"]),
        asks,
        st.integers(0, 10),  # which of the open ones
        st.integers(0, 500),  # what it came to
        st.integers(0, 10) | st.integers(0, 10**11),
        st.booleans(),
    ),
    max_size=50,
)


def estimated(ask: Ask, output_tokens: int) -> Ask:
    """Return the gateway's estimate."""
    if not ask.model:
        return Ask(ask.user, "", 0, 0, False)
    return Ask(ask.user, ask.model, ask.prompt, ask.output if ask.firm else output_tokens, ask.firm)


def decided(limits: LimitSet, ask: Ask, now_ns: int, today: int) -> Reservation | Refusal:
    body = json.dumps({"max_tokens": ask.output} if ask.firm else {}).encode()
    peek = Peeker().peek(body)
    return limits.decide(
        ask.user, "", "", ask.model, "", peek, 4 * ask.prompt, A_TOKEN if ask.model else None, now_ns, today
    )


@given(
    rules=st.lists(limits(), min_size=1, max_size=5),
    output_tokens=st.integers(1, 50),
    steps=steps,
    workers=st.integers(1, 3),
)
def test_every_decision_is_the_oracles(
    rules: list[Limit], output_tokens: int, steps: list[tuple[Any, ...]], workers: int
) -> None:
    # The same limit twice in a set is no question that a configuration can ask.
    rules = [(f"{place}", *rule[1:]) for place, rule in enumerate(rules)]
    segment = Segment(workers)
    # The workers of a gateway: sets of their own, one segment.
    sets = [LimitSet(segment, worker, "r", rules, output_tokens=output_tokens) for worker in range(workers)]
    oracle = SlowLimits(rules)
    held: list[tuple[Reservation, SlowReservation]] = []
    now_ns, today = START_NS, TODAY
    got: Reservation | Refusal | None = None
    grant: Reservation | None
    for number, (what, ask, which, came_to, pause_ns, is_tomorrow) in enumerate(steps):
        now_ns += pause_ns
        today += is_tomorrow and number % 7 == 0
        if what == "ask":
            got = decided(sets[number % workers], ask, now_ns, today)
            expected = oracle.decide(estimated(ask, output_tokens), now_ns, today)
            if isinstance(expected, SlowRefusal):
                assert isinstance(got, Refusal), (ask, expected)
                assert (got.limit, got.wait_ns, got.never) == (expected.limit, expected.wait_ns, expected.never)
            else:
                assert isinstance(got, Reservation), (ask, got.limit)
                assert (got.requests, got.tokens) == (expected.requests, expected.tokens)
                held.append((got, expected))
        elif held:
            grant, slow = held.pop(which % len(held))
            if what == "settle":
                grant.settle(came_to, came_to, now_ns)
                oracle.settle(slow, came_to, came_to, now_ns)
                assert not grant.settle(came_to, came_to, now_ns), "once"
            elif what == "undo":
                grant.undo()
                oracle.undo(slow, now_ns)
            else:
                grant = got = None  # nobody knows it any more
                oracle.settle(slow, 0, 0, now_ns)
