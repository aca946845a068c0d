"""The fast path must not assume that an upstream sends nothing after its response, or that no clock is ever set."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON, Numbered, armed, ask, fast_gateway, swept
from tokens import SECRET, own
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.records import Auth, Permission, Secret
from budgateway.transport.client_cy import READ_BYTES

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)


@pytest.mark.parametrize("is_fast", [True, False])
async def test_what_an_upstream_says_too_much_is_nobodys_answer(is_fast: bool, tmp_path: Path) -> None:
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
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        native.open(is_fast)
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            for each in (client, other):
                if is_fast:
                    await armed(each, native)
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


async def test_a_token_that_expires_as_the_clock_is_set_rides_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = {"jwt_secret": Secret(SECRET), "auth": Auth(grants=(Permission("all"),))}
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, route={"auth_required": True}, **auth) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client:
            who = ("Authorization", f"Bearer {own(roles=['all'], exp=int(time.time()) + 600)}")
            asked = request_bytes("a", "POST", CHAT, b'{"model":"demo"}', [*JSON, who])
            await swept(gateway)  # the first sweep drops what was cached before
            await armed(client, native, asked)
            clock = SimpleNamespace(
                time=lambda: time.time() + 3600,
                time_ns=lambda: time.time_ns() + 3600 * 10**9,
                monotonic_ns=time.monotonic_ns,
            )
            monkeypatch.setattr("budgateway.auth.authenticator_cy.time", clock.time)
            monkeypatch.setattr("budgateway.app.dataplane.time", clock)
            await swept(gateway)
            carried = native.served()
            await client.send(asked)
            assert ((await client.answer()).status, native.served()) == (401, carried)
