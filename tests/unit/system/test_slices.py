"""Long work in slices: bounded in each turn of the loop, closed when cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from itertools import count

import pytest

from budgateway.system.slices import at_once, in_slices, unhurried

STEP_NS = 100_000


class Work:
    """Work of some steps, each of which takes STEP_NS by its own clock."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.now_ns = 0
        self.turns: list[int] = []
        self.is_closed = False

    def clock(self) -> int:
        return self.now_ns

    def run(self) -> Generator[None, None, str]:
        try:
            for _ in range(self.steps):
                self.now_ns += STEP_NS
                self.turns.append(self._turn)
                yield
            return "done"
        finally:
            self.is_closed = True

    _turn = 0

    async def count_turns(self) -> None:
        for self._turn in count():
            await asyncio.sleep(0)


async def test_each_turn_of_the_loop_has_one_slice_of_the_work() -> None:
    work = Work(100)
    turning = asyncio.create_task(work.count_turns())
    await asyncio.sleep(0)
    assert await in_slices(work.run(), slice_ns=5 * STEP_NS, now_ns=work.clock) == "done"
    turning.cancel()
    in_turn = [work.turns.count(turn) for turn in sorted(set(work.turns))]
    assert (len(in_turn), max(in_turn)) == (20, 5)


async def test_a_step_that_takes_too_long_ends_its_slice() -> None:
    work = Work(10)
    turning = asyncio.create_task(work.count_turns())
    await asyncio.sleep(0)
    await in_slices(work.run(), slice_ns=1, now_ns=work.clock)
    turning.cancel()
    assert len(set(work.turns)) == 10


async def test_cancelled_work_is_closed_where_it_stands() -> None:
    work = Work(1_000_000)
    running = asyncio.create_task(in_slices(work.run(), slice_ns=STEP_NS, now_ns=work.clock))
    for _ in range(3):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert work.is_closed
    assert len(work.turns) < 10


def failing() -> Generator[None, None, None]:
    yield
    raise ValueError("no")


async def test_errors_and_results_are_those_of_the_work() -> None:
    assert at_once(Work(3).run()) == unhurried(Work(3).run()) == "done"
    for run in (at_once, unhurried):
        with pytest.raises(ValueError, match="no"):
            run(failing())
    with pytest.raises(ValueError, match="no"):
        await in_slices(failing())
