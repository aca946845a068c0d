"""The control channel: messages arrive whole and in order, and an end is heard."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from budgateway.config.packing import packing
from budgateway.process.control import MAX_UNREAD_BYTES, Channel, Commit, Prepare, Prepared, Ready, Serve
from budgateway.records import Secret, Settings
from budgateway.system.slices import at_once


async def test_messages_arrive_whole_and_in_order() -> None:
    here, there = socket.socketpair()
    one, two = await Channel.over(here), await Channel.over(there)
    # Larger than the buffers of a socket pair.
    settings = Settings(notices=tuple(f"notice {number:040d}" for number in range(20_000)), jwt_secret=Secret("s" * 32))
    messages = [Serve(settings), Prepare(1, at_once(packing(settings))), Commit(1), Ready(), Prepared(1, "why not")]

    async def send() -> None:
        for message in messages:
            await one.send(message)

    sending = asyncio.create_task(send())
    assert [await two.receive() for _ in messages] == messages
    await sending
    one.close()
    assert await two.receive() is None
    two.close()


async def test_a_lost_peer_is_the_end() -> None:
    here, there = socket.socketpair()
    one = await Channel.over(here)
    there.send(b"\0\0\1\0half of a message")
    there.close()
    assert await one.receive() is None
    with pytest.raises(ConnectionError):
        for _ in range(3):
            await one.send(Ready())
            await asyncio.sleep(0)
    one.close()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_is_sent_on_a_closed_channel_finds_nobody(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def send() -> None:
        here, there = socket.socketpair()
        one = await Channel.over(here)
        there.close()
        one.close()
        for _ in range(2):  # at once, and when the loop has let go of the descriptor
            with pytest.raises(ConnectionError):
                await one.send(Ready())
            await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(send())


async def test_a_peer_that_reads_nothing_holds_nobody_up() -> None:
    here, there = socket.socketpair()
    one = await Channel.over(here)
    packed = at_once(packing(Settings(notices=("n" * (1 << 20),))))
    with pytest.raises(TimeoutError, match="reads nothing"):
        for _ in range(2 * (MAX_UNREAD_BYTES >> 20)):
            one.post(Prepare(1, packed))
    one.close()
    there.close()
