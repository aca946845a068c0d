"""The fast path serves common exchanges, and they do not differ from those of the ordinary path; no answer changes places."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON, Numbered, armed, ask, away, fast_gateway
from integration.inside import Inside, inside
from tokens import SECRET, own
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.auth.credential_store import CredentialSet
from budgateway.auth.keys import digest_of, new_secret, start_of
from budgateway.native import GAUGE_EXCHANGES
from budgateway.records import Allowance, ApiKey, Auth, Fallback, LimitRule, Permission, Retries, Secret

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)


@asynccontextmanager
async def asking(client: Downstream, *, streams: bool = False) -> AsyncIterator[None]:
    """A client whose requests are answered, ten a second."""
    body = b'{"model":"demo","n":0,"stream":%s}' % (b"true" if streams else b"false")

    async def ask_on() -> None:
        while True:
            await client.send(request_bytes("a", "POST", CHAT, body, JSON))
            assert (await client.answer()).status == 200
            await asyncio.sleep(0.1)

    task = asyncio.create_task(ask_on())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def turned(gateway: Inside) -> None:
    """Wait until the gateway has read what was sent to it before, and could have had it answered."""
    async with Downstream(gateway.url) as other:
        for _ in range(10):
            await other.send(ask(0))
            assert (await other.answer()).status == 200


# ---------------------------------------------------------------- the order of answers


async def test_a_request_that_is_handed_over_is_answered_before_the_next(tmp_path: Path) -> None:
    """There is no connection for the first; meanwhile the second comes."""
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await armed(client, native)
            await other.send(ask(9))
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 9)
            await client.send(ask(1))
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 1)
            await client.send(ask(2))
            answers.let_go(2)
            await turned(gateway)
            answers.let_go(1, 9)
            assert [(await client.answer()).json()["n"] for _ in range(2)] == [1, 2]
            assert (await other.answer()).json() == {"n": 9}
        await gateway.at_rest()


async def test_a_client_is_not_offered_while_its_requests_wait(tmp_path: Path) -> None:
    """Two stand behind one that teaches a kind: the first is refused at once, and a third comes when the second is away."""
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await armed(other, native)
            await client.send(ask(1))
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 1)
            await client.send(request_bytes("a", "GET", "/nowhere") + ask(2))
            await turned(gateway)
            answers.let_go(1)
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 2)
            await client.send(ask(3))
            answers.let_go(3)
            await turned(gateway)
            answers.let_go(2)
            seen = [await client.answer() for _ in range(4)]
            assert [answer.json().get("n", answer.status) for answer in seen] == [1, 404, 2, 3]
        await gateway.at_rest()


# ---------------------------------------------------------------- who may


async def test_what_a_role_may_put_it_may_not_post(tmp_path: Path) -> None:
    auth = {
        "jwt_secret": Secret(SECRET),
        "auth": Auth(
            grants=(Permission("putter", methods=("PUT",)), Permission("poster", methods=("POST",)), Permission("all"))
        ),
    }
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, route={"auth_required": True}, **auth) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client:
            who = ("Authorization", f"Bearer {own(roles=['putter'], exp=2**32)}")
            for _ in range(4):
                assert (await client.ask("PUT", CHAT, b'{"model":"demo"}', [*JSON, who])).status == 200
                assert (await client.ask("POST", CHAT, b'{"model":"demo"}', [*JSON, who])).status == 403
            assert not native.served()
            may = ("Authorization", f"Bearer {own(roles=['all'], exp=2**32)}")
            await armed(client, native, request_bytes("a", "POST", CHAT, b'{"model":"demo"}', [*JSON, may]))
            poster = ("Authorization", f"Bearer {own(roles=['poster'], exp=2**32)}")
            await armed(client, native, request_bytes("a", "POST", CHAT, b'{"model":"demo"}', [*JSON, poster]))
            assert (await client.ask("PUT", CHAT, b'{"model":"demo"}', [*JSON, poster])).status == 403


# ---------------------------------------------------------------- cached plans


async def test_what_a_fallback_did_is_not_cached(tmp_path: Path) -> None:
    """Its provider is told another name."""
    retries = Retries(fallbacks=(Fallback("/spare"),))
    async with FaultyUpstream(faults.chat()) as upstream, FaultyUpstream(faults.chat()) as spare:
        async with fast_gateway(
            upstream, tmp_path, beside={"/spare": spare.url}, route={"retries": retries},
            provider={"aliases": (("demo", "real"),)},
        ) as (gateway, _):  # fmt: skip
            selector = gateway.plane.snapshot.routes.compiled_routes[0].destinations[0].balancer.selector
            async with Downstream(gateway.url) as client:
                for drained in (True, False):
                    selector.drain(0, drained)
                    for _ in range(4):
                        await client.send(ask(0))
                        assert (await client.answer()).status == 200
            assert [json.loads(request.body)["model"] for request in spare.requests] == ["demo"] * 4
            assert [json.loads(request.body)["model"] for request in upstream.requests] == ["real"] * 4


async def test_upstreams_that_lack_a_model_are_left_out_however_many_were_named(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as one, FaultyUpstream(faults.chat()) as two:
        async with inside([one.url, two.url], tmp_path, path="/v1/*") as gateway, Downstream(gateway.url) as client:
            native = gateway.plane.fastpath.native  # type: ignore[union-attr]
            segment = gateway.plane._segment
            for upstream, model in ((one, "a"), (two, "b")):
                segment.set_models(segment.upstream(upstream.url), [model])
            gateway.plane._follow_models()
            for number in range(1024):
                await client.send(ask(0, f"unlisted-{number}"))
                assert (await client.answer()).status == 200
            asked = len(one.requests)
            for _ in range(5):
                await armed(client, native, ask(0, "b"))
            assert len(one.requests) == asked


async def test_a_long_name_is_not_remembered(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            for _ in range(4):
                await client.send(ask(0, "m" * 257))
                assert (await client.answer()).status == 200
            assert not native.served()
            await armed(client, native, ask(0, "m" * 256))


# ---------------------------------------------------------------- exchanges that end otherwise


@pytest.mark.parametrize("how", ["leave", "reset", "finish"])
async def test_a_client_that_leaves_ends_its_exchange(how: str, tmp_path: Path) -> None:
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            await away(client, native, upstream, answers)
            getattr(client, how)()
            await gateway.at_rest()
            assert not len(native)
            await upstream.until(lambda up: up.open_connections == 0)
        lines = await gateway.lines(len(upstream.requests))
        assert [line["outcome"] for line in lines[-2:]] == ["complete", "client_gone"]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_dies_is_asked_again(how: str, tmp_path: Path) -> None:
    async def die(peer: Peer, request: Received) -> None:
        getattr(peer, how)()

    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            for _ in range(5):
                upstream.script(faults.chat())
                await armed(client, native)
                upstream.script(die, faults.chat("again"))
                asked, carried = len(upstream.requests), native.served()
                await client.send(ask(1))
                assert (await client.answer()).json()["choices"][0]["message"]["content"] == "again"
                assert (len(upstream.requests), native.served()) == (asked + 2, carried)
                await gateway.at_rest()
        lines = await gateway.lines(len(upstream.requests) - 5)
        assert {(line["status"], line["outcome"]) for line in lines} == {(200, "complete")}
        assert sum(line["attempts"] == 2 for line in lines) == 5


async def test_an_upstream_that_answers_garbage_is_not_asked_again(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            await armed(client, native)
            upstream.script(faults.raw(b"what?\r\n\r\n"), faults.chat("again"))
            asked = len(upstream.requests)
            await client.send(ask(1))
            assert ((await client.answer()).status, len(upstream.requests)) == (502, asked + 1)
            await gateway.at_rest()


@pytest.mark.parametrize("streams", [False, True], ids=["fast path", "ordinary path"])
async def test_who_waits_for_an_upstream_that_others_hear_from_stays(streams: bool, tmp_path: Path) -> None:
    """Engines take seconds for an answer, and its client's connection outlasts its idle time meanwhile."""
    answers = Numbered()
    async with (
        FaultyUpstream(answers) as upstream,
        fast_gateway(upstream, tmp_path, keepalive_s=0.4) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            stayed = 0
            number = 0
            # On a busy machine the others may have to be silent as well, for so long that it is handed over.
            while not stayed and number < 80:
                await armed(other, native)
                number = await away(client, native, upstream, answers, number + 1)
                async with asking(other, streams=streams):
                    await asyncio.sleep(1.5)
                    assert gateway.gauge(GAUGE_EXCHANGES) >= 1
                carried = native.served()
                answers.let_go(number)
                assert (await client.answer()).json() == {"n": number}
                stayed = native.served() - carried
            assert stayed == 1
            await gateway.at_rest()
        lines = await gateway.lines(len(upstream.requests))
        assert {line["outcome"] for line in lines} == {"complete"}
        assert any(line["duration_ms"] > 1000 for line in lines)


async def test_a_plan_is_cached_from_an_answer_that_took_its_time(tmp_path: Path) -> None:
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            await client.send(ask(1))
            await asyncio.sleep(0.3)
            answers.let_go(1)
            assert (await client.answer()).status == 200
            await client.send(ask(0))
            assert (await client.answer()).status == 200
            assert native.served() == 1
        await gateway.at_rest()


async def test_who_waits_for_a_silent_upstream_is_handed_over_and_counted_once(tmp_path: Path) -> None:
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            number = await away(client, native, upstream, answers)
            assert (gateway.in_flight, gateway.slots) == (0, 1)
            await gateway.until(lambda: gateway.in_flight == 1)  # the sweep
            assert (len(native), gateway.slots) == (0, 1)
            carried = native.served()
            answers.let_go(number)
            assert (await client.answer()).json() == {"n": number}
            await gateway.at_rest()
            assert native.served() == carried
            await armed(client, native)
        lines = await gateway.lines(len(upstream.requests))
        assert {line["outcome"] for line in lines} == {"complete"}


async def test_a_first_byte_that_never_comes_is_a_timeout(tmp_path: Path) -> None:
    answers = Numbered()
    timeouts = {"first_byte_s": 0.4}
    async with (
        FaultyUpstream(answers) as upstream,
        fast_gateway(upstream, tmp_path, timeouts=timeouts) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client:
            await away(client, native, upstream, answers)
            answer = await client.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        await gateway.at_rest()


@pytest.mark.parametrize("limit", ["first_byte_s", "total_s"])
async def test_a_deadline_holds_though_others_are_answered(limit: str, tmp_path: Path) -> None:
    answers = Numbered()
    async with (
        FaultyUpstream(answers) as upstream,
        fast_gateway(upstream, tmp_path, timeouts={limit: 1.2}) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await armed(other, native)
            await away(client, native, upstream, answers)
            began = time.monotonic()
            async with asking(other):
                answer = await client.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (504, "upstream_timeout")
            assert time.monotonic() - began > 1.1
        await gateway.at_rest()


@pytest.mark.parametrize("what", ["reload", "clear", "shed", "keys", "close"])
async def test_fast_exchanges_outlast_what_changes_meanwhile(what: str, tmp_path: Path) -> None:
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        plane = gateway.plane
        async with Downstream(gateway.url) as client:
            number = await away(client, native, upstream, answers)
            if what == "reload":
                plane.commit(plane.prepare(replace(plane.snapshot.settings, keepalive_s=70.0)))
                assert (len(native), gateway.in_flight) == (0, 1)
            elif what == "clear":
                assert plane.fastpath is not None
                plane.fastpath.clear()
            elif what == "shed":
                plane.shed("of a test")
            elif what == "keys":
                plane.update_credentials(CredentialSet())
            else:
                native.open(False)
            carried = native.served()
            async with Downstream(gateway.url) as other:
                answers.let_go(number + 1)
                await other.send(ask(number + 1))
                assert (await other.answer()).status == (503 if what == "shed" else 200)
            answers.let_go(number)
            assert (await client.answer()).json() == {"n": number}
            await gateway.at_rest()
            if what == "shed":
                carried = native.served()
                await client.send(ask(0))
                assert (await client.answer()).status == 503
                assert native.served() == carried
                plane.shed("")
            if what != "close":
                await armed(client, native)
        await gateway.lines(len(upstream.requests) + (2 if what == "shed" else 0))


async def test_a_drain_waits_for_fast_exchanges_and_takes_no_more(tmp_path: Path) -> None:
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await armed(other, native)
            number = await away(client, native, upstream, answers)
            drain = asyncio.create_task(gateway.plane.drain(5.0))
            await asyncio.sleep(0)
            assert (len(native), gateway.in_flight) == (0, 1)
            carried = native.served()
            await other.send(ask(0))
            last = await other.answer()
            assert (last.status, last.header("connection")) == (200, "close")
            answers.let_go(number)
            assert (await client.answer()).json() == {"n": number}
            async with asyncio.timeout(5):
                await drain
            assert native.served() == carried
        assert not (gateway.in_flight or gateway.slots)


async def test_a_client_on_the_fast_path_is_not_idle(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, keepalive_s=0.6) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client:
            await armed(client, native)
            began = time.monotonic()
            while time.monotonic() - began < 1.5:
                await client.send(ask(0))
                assert (await client.answer()).status == 200
                await asyncio.sleep(0.05)
            carried, last = native.served(), time.monotonic()
            assert carried > 10
            async with asyncio.timeout(10):
                await client.closed()
            assert time.monotonic() - last > 0.4


# ---------------------------------------------------------------- who may, for how long, how much


async def test_a_key_that_is_revoked_is_served_no_more(tmp_path: Path) -> None:
    secret = new_secret()
    key = ApiKey("k", digest_of(secret), start_of(secret), roles=("all",))
    auth = {"jwt_secret": Secret(SECRET), "auth": Auth(grants=(Permission("all"),))}
    asked = request_bytes("a", "POST", CHAT, b'{"model":"demo","n":0}', [*JSON, ("X-Api-Key", secret)])
    held = request_bytes("a", "POST", CHAT, b'{"model":"demo","n":1}', [*JSON, ("X-Api-Key", secret)])
    answers = Numbered()
    async with (
        FaultyUpstream(answers) as upstream,
        fast_gateway(upstream, tmp_path, route={"auth_required": True}, **auth) as (gateway, native),
    ):
        gateway.plane.update_credentials(CredentialSet(api_keys=(key,)))
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await armed(client, native, asked)
            await armed(other, native, asked)
            await other.send(held)
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 1)
            gateway.plane.update_credentials(CredentialSet(api_keys=(replace(key, disabled=True),)))
            carried = native.served()
            answers.let_go(1)
            # It was let in before; what ends now is not cached.
            assert (await other.answer()).status == 200
            for each in (client, other, client):
                await each.send(asked)
                assert (await each.answer()).status == 401
            assert native.served() <= carried + 1
        await gateway.at_rest()


async def test_a_token_that_expires_is_served_no_more(tmp_path: Path) -> None:
    auth = {"jwt_secret": Secret(SECRET), "auth": Auth(grants=(Permission("all"),), leeway_s=0.0)}
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, route={"auth_required": True}, **auth) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client:
            ends = int(time.time()) + 2
            who = ("Authorization", f"Bearer {own(roles=['all'], exp=ends)}")
            asked = request_bytes("a", "POST", CHAT, b'{"model":"demo"}', [*JSON, who])
            await armed(client, native, asked)
            while True:
                sent = time.time()
                await client.send(asked)
                status = (await client.answer()).status
                if status == 401:
                    break
                assert sent < ends + 0.01
                await asyncio.sleep(0.01)
            assert time.time() > ends - 0.01


async def test_limits_are_exact(tmp_path: Path) -> None:
    """As many as may, over several clients on the fast path, and not one more; tokens as they are reported."""
    rules = (LimitRule("day", ("user",), Allowance(requests_per_day=50, burst=50, tokens_per_day=1000)),)
    answer = faults.json_bytes({"usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    body = b'{"model":"demo","max_tokens":1}'
    async with (
        FaultyUpstream(faults.raw(answer)) as upstream,
        fast_gateway(upstream, tmp_path, limit_rules=rules) as (gateway, native),
    ):
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in range(4)]
            seen = []
            for number in range(60):
                client = clients[number % 4]
                await client.send(request_bytes("a", "POST", CHAT, body, JSON))
                seen.append(await client.answer())
        assert [one.status for one in seen] == [200] * 50 + [429] * 10
        assert native.served() > 20
        assert len(upstream.requests) == 50
        left = [int(one.header("x-ratelimit-remaining-requests") or -1) for one in seen[:50]]
        assert left == list(range(49, -1, -1))
        tokens = [int(one.header("x-ratelimit-remaining-tokens") or -1) for one in seen[:50]]
        assert all(0 <= 7 - (one - other) <= 1 for one, other in itertools.pairwise(tokens))
        await gateway.at_rest()


@pytest.mark.parametrize("end", ["leave", "answer", "late"])
async def test_what_was_granted_comes_back(end: str, tmp_path: Path) -> None:
    """Tokens that were reserved and not used."""
    rules = (LimitRule("day", (), Allowance(tokens_per_day=10_000)),)
    answers = Numbered()
    body = b'{"model":"demo","n":%d,"max_tokens":4000}'
    async with (
        FaultyUpstream(answers) as upstream,
        fast_gateway(upstream, tmp_path, limit_rules=rules) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await armed(client, native)
            await client.send(request_bytes("a", "POST", CHAT, body % 1, JSON))
            await upstream.until(lambda up: json.loads(up.requests[-1].body)["n"] == 1)
            if end == "leave":
                client.leave()
            else:
                if end == "late":
                    await gateway.until(lambda: gateway.in_flight == 1)
                answers.let_go(1)
                assert (await client.answer()).status == 200
            await gateway.at_rest()
            answer = await other.ask("POST", CHAT, body % 0, JSON)
            assert int(answer.header("x-ratelimit-remaining-tokens") or -1) > 5500


async def test_an_upstream_gets_its_share_and_no_more(tmp_path: Path) -> None:
    answers = Numbered()
    async with FaultyUpstream(answers) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        plane = gateway.plane
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Downstream(gateway.url)) for _ in range(3)]
            for number, client in enumerate(clients, 1):
                await client.send(ask(number))
            await upstream.until(lambda up: len(up.requests) == 3)
            answers.let_go(1, 2, 3)
            for client in clients:
                assert (await client.answer()).status == 200
            # There are three connections to it, and two may be used at a time.
            plane.commit(plane.prepare(replace(plane.snapshot.settings, max_connections=4)))
            plane._publish()
            for client in clients:
                await armed(client, native)
            for number, client in enumerate(clients[:2], 4):
                await client.send(ask(number))
                await upstream.until(lambda up, number=number: json.loads(up.requests[-1].body)["n"] == number)  # type: ignore[misc]
            refused = await clients[2].ask("POST", CHAT, b'{"model":"demo","n":0}', JSON)
            assert (refused.status, refused.json()["error"]["code"]) == (503, "overloaded")
            answers.let_go(4, 5)
            assert [(await client.answer()).json()["n"] for client in clients[:2]] == [4, 5]
            await gateway.at_rest()
            await armed(clients[0], native)


async def test_who_does_not_read_is_not_answered_on_and_on(tmp_path: Path) -> None:
    wire = faults.json_bytes({"p": "y" * 15_000})
    async with FaultyUpstream(faults.raw(wire)) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client, Downstream(gateway.url) as other:
            await armed(client, native)
            client.receive_at_most(4096)
            client.read_no_more()
            # More than the kernel takes.
            for count in range(len(upstream.requests) + 1, len(upstream.requests) + 600):
                await client.send(ask(0))
                try:
                    await upstream.until(lambda up, count=count: len(up.requests) == count, 0.5)  # type: ignore[misc]
                except TimeoutError:
                    break
            await armed(other, native)
            unsent = gateway.plane._plain.unsent()  # type: ignore[union-attr]
            assert max(unsent) < 400_000


async def test_a_route_has_cached_plans_of_its_own(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, FaultyUpstream(faults.chat()) as elsewhere:
        beside = {"/v1/elsewhere": elsewhere.url}
        async with (
            fast_gateway(upstream, tmp_path, beside=beside) as (gateway, native),
            Downstream(gateway.url) as client,
        ):
            await armed(client, native)
            await client.send(ask(0, path="/v1/elsewhere"))
            assert (await client.answer()).status == 200
            assert len(elsewhere.requests) == 1


async def test_an_error_is_tried_again(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, fast_gateway(upstream, tmp_path) as (gateway, native):
        async with Downstream(gateway.url) as client:
            for _ in range(5):
                upstream.script(faults.chat())
                await armed(client, native)
                upstream.script(faults.status(503, retry_after="0"), faults.chat("again"))
                await client.send(ask(0))
                assert (await client.answer()).status == 200


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nothing lists what is open")
async def test_a_gateway_that_ended_leaves_nothing_open(tmp_path: Path) -> None:
    """A program may start and end as many as it likes. The collector does not see what native objects hold."""
    async with FaultyUpstream(faults.chat()) as upstream:
        left: list[int] = []
        for number in range(4):
            log = tmp_path / str(number)
            log.mkdir()
            async with fast_gateway(upstream, log) as (gateway, native), Downstream(gateway.url) as client:
                await armed(client, native)
            del gateway, native, client
            await asyncio.sleep(0)
            gc.collect()
            left.append(held())
        # A first one may leave what a program has once.
        assert left[1:] == left[:1] * 3


def held() -> int:
    """Epoll sets and segments that are open."""
    links = (fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())
    return sum("eventpoll" in str(link) or "memfd" in str(link) for link in links)
