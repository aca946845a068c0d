"""The task that awaits a stage for an exchange's plan, because compiled modules hold no coroutines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from budgateway.exchange.exchange_cy import Exchange


class Planner(Protocol):
    """The object that continues a plan: the relay."""

    def waited(self, x: Exchange, error: Exception | None) -> None:
        """Continue the plan: the stage's wait is over, or failed with `error`."""

    def crashed(self, x: Exchange, error: Exception) -> None:
        """End the exchange after a defect of ours."""


async def go_on(planner: Planner, x: Exchange, waiting: Awaitable[None]) -> None:
    """Wait for a stage, then continue the plan. Cancelled with its exchange; the stage then gives back what it took."""
    failure: Exception | None = None
    try:
        await waiting
    except Exception as error:  # noqa: BLE001 - the planner tells refusals from defects
        failure = error
    try:
        planner.waited(x, failure)
    except Exception as error:  # noqa: BLE001 - the task's edge: a defect must not leave the exchange in flight
        planner.crashed(x, error)
