"""A stage that waits: the plan goes on behind it, or the exchange is refused, or the client does not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.auth.authenticator_cy import Authenticator
from budgateway.errors import Unauthenticated
from budgateway.exchange.exchange_cy import Exchange

pytestmark = pytest.mark.integration
ASK = request_bytes(
    "a", "POST", "/v1/chat/completions", b'{"model":"demo","messages":[]}', [("Content-Type", "application/json")]
)


class WaitingAuthenticator(Authenticator):
    """Knows who is asking when it is told so."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    def identify(self, x: Exchange) -> Awaitable[None] | None:
        """Wait for the answer."""
        self.asked += 1
        return self._wait()

    async def _wait(self) -> None:
        try:
            await self.answer
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat("first")) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: FaultyUpstream, tmp_path: Path) -> AsyncIterator[Inside]:
    async with inside(upstream.url, tmp_path) as gateway:
        yield gateway


@pytest.fixture
async def stage(gateway: Inside) -> WaitingAuthenticator:
    stage = WaitingAuthenticator()
    gateway.plane.snapshot.auth = stage
    return stage


async def test_the_plan_goes_on_behind_the_stage(gateway: Inside, stage: WaitingAuthenticator) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await gateway.until(lambda: stage.asked == 1)
        assert gateway.in_flight == 1
        stage.answer.set_result(None)
        assert (await client.answer()).status == 200
        assert stage.asked == 1
    await gateway.at_rest()


async def test_what_the_wait_raises_refuses_the_exchange(gateway: Inside, stage: WaitingAuthenticator) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await gateway.until(lambda: stage.asked == 1)
        stage.answer.set_exception(Unauthenticated("nobody knows you"))
        assert (await client.answer()).status == 401
    await gateway.at_rest()


async def test_a_defect_of_the_wait_is_this_exchanges_alone(gateway: Inside, stage: WaitingAuthenticator) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await gateway.until(lambda: stage.asked == 1)
        stage.answer.set_exception(ZeroDivisionError())
        assert (await client.answer()).status == 500
    await gateway.at_rest()


async def test_a_client_that_leaves_takes_the_wait_along(
    gateway: Inside, stage: WaitingAuthenticator, upstream: FaultyUpstream
) -> None:
    async with Downstream(gateway.url) as client:
        await client.send(ASK)
        await gateway.until(lambda: stage.asked == 1)
    await gateway.at_rest()
    await gateway.until(lambda: stage.cancelled, "the end of the wait")
    assert not upstream.requests
    (line,) = await gateway.lines(1)
    assert line["outcome"] == "client_gone"
