"""What must not be taken on trust: that an upstream has said all when it has answered."""

from __future__ import annotations

from pathlib import Path

import pytest
from downstream import Downstream
from integration.riding import Numbered, ask, express, riding
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.transport.client_cy import READ_BYTES

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)


@pytest.mark.parametrize("rides", [True, False])
async def test_what_an_upstream_says_too_much_is_nobodys_answer(rides: bool, tmp_path: Path) -> None:
    """It stands behind an answer that ends where a read does, and the next request comes in the same turn."""
    spare = READ_BYTES - len(faults.json_bytes({"n": 1, "p": "x" * 16_000}))
    filled = faults.json_bytes({"n": 1, "p": "x" * (16_000 + spare)})
    assert len(filled) == READ_BYTES
    others: list[Downstream] = []

    async def too_much(peer: Peer, _: Received) -> None:
        await peer.send(filled + faults.json_bytes({"n": "of nobody"}))
        for other in others:
            await other.send(ask(2))

    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, express(upstream, tmp_path) as (gateway, native):
        native.open(rides)
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            for each in (client, other):
                if rides:
                    await riding(each, native)
                else:
                    await each.send(ask(0))
                    assert (await each.answer()).status == 200
            answers.let_go(2)
            others.append(other)
            upstream.script(too_much, answers)
            opened = len(upstream.connections)
            await client.send(ask(1))
            assert len((await client.answer()).body) > 16_000
            assert (await other.answer()).json() == {"n": 2}
            assert len(upstream.connections) == opened + 1
        await gateway.at_rest()
