"""A key that begins like a real one takes as long as one that does not (RELIABILITY S10): counted, then measured."""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from types import FrameType
from typing import Any

import pytest

from budgateway.auth.keys import KeyRing, digest_of, new_secret, start_of
from budgateway.records import ApiKey

SECRETS = [new_secret() for _ in range(500)]
RING = KeyRing(ApiKey(f"k{number}", digest_of(secret), start_of(secret)) for number, secret in enumerate(SECRETS))


def changed(secret: str, place: int) -> str:
    return secret[:place] + ("a" if secret[place] != "a" else "b") + secret[place + 1 :]


GUESSES: dict[str, Callable[[int], str]] = {
    "random": lambda number: new_secret(),
    "right but for the last character": lambda number: changed(SECRETS[number % 500], -1 + len(SECRETS[0])),
    "right but for the first": lambda number: changed(SECRETS[number % 500], 3),
    "right in its first half": lambda number: SECRETS[number % 500][:23] + new_secret()[23:],
    "another prefix": lambda number: "sk-" + new_secret()[3:],
}


def steps(work: Callable[[], object]) -> list[tuple[str, int]]:
    """Every bytecode instruction that is executed, in order."""
    done: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            done.append((frame.f_code.co_name, frame.f_lasti))
        return trace

    before = sys.gettrace()
    gc.disable()  # or else hooks of the collector are traced, too
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return done


@pytest.mark.parametrize("kind", GUESSES)
def test_every_wrong_key_takes_the_very_same_steps(kind: str) -> None:
    expected = steps(partial(RING.find, "bg-" + "0" * 43, 0.0))
    assert len(expected) > 20
    for number in range(20):
        assert steps(partial(RING.find, GUESSES[kind](number), 0.0)) == expected
    # A right one takes others, so that the count can tell.
    assert steps(partial(RING.find, SECRETS[0], 0.0)) != expected


@pytest.mark.alone
def test_no_kind_of_guess_is_quicker() -> None:
    # Made in turns, so that none lies better in memory than another.
    rows = [{kind: make(number) for kind, make in GUESSES.items()} for number in range(100)]
    guesses = {kind: [row[kind] for row in rows] for kind in GUESSES}

    def batch(secrets: list[str]) -> int:
        began = time.process_time_ns()
        for secret in secrets:
            RING.find(secret, 0.0)
        return time.process_time_ns() - began

    kinds = list(GUESSES)
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(400):
        random.shuffle(kinds)
        taken = {kind: batch(guesses[kind]) for kind in kinds}
        middle = median(taken.values())
        for kind, nanoseconds in taken.items():
            ratios[kind].append(nanoseconds / middle)
    found = {kind: round(median(values), 3) for kind, values in ratios.items()}
    assert all(0.95 < ratio < 1.05 for ratio in found.values()), found
