"""Tasks that must not end: what they meet is logged, and they go on."""

from __future__ import annotations

import asyncio
import logging

import pytest

from budgateway.system import keeper
from budgateway.system.keeper import Steps, keep_on

LOG = logging.getLogger("budgateway.test")


async def test_a_task_that_fails_begins_again_until_it_returns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeper, "RETRY_MIN_S", 0.0)
    outcomes: list[Exception | None] = [BrokenPipeError("no reader"), ValueError("odd"), None]

    async def work() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    with caplog.at_level(logging.ERROR):
        await keep_on("the task", work, LOG)
    assert outcomes == []
    assert [record.message.partition(";")[0] for record in caplog.records] == ["the task failed"] * 2
    assert caplog.records[0].exc_info is not None


async def test_a_task_that_is_cancelled_ends() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_on("the task", work, LOG))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_step_that_fails_is_said_once_and_when_it_succeeds_again(caplog: pytest.LogCaptureFixture) -> None:
    steps = Steps(LOG)
    with caplog.at_level(logging.INFO):
        for words in ("full", "full", "gone", None, None):
            with steps.step("writing"):
                if words is not None:
                    raise OSError(words)
    assert [record.message for record in caplog.records] == [
        "writing failed and will be retried: OSError: full",
        "writing failed and will be retried: OSError: gone",
        "writing succeeds again",
    ]
