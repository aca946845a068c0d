"""Blame: a client's own doing and the gateway's own shortages say nothing about an upstream."""

from __future__ import annotations

import asyncio
import errno
import socket
from pathlib import Path
from time import monotonic_ns
from typing import Any

import pytest
from aiodns.error import ARES_ECONNREFUSED, ARES_ENOTFOUND, DNSError
from descriptors import no_descriptors
from downstream import Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

from budgateway.records import BreakerSettings
from budgateway.transport import race
from budgateway.transport.resolve import Addresses

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
WHOLE = b'{"model":"demo","messages":[]}'
STREAM = b'{"model":"demo","stream":true,"messages":[]}'
# One failure is enough for everything.
STRICT: dict[str, Any] = {"breaker": BreakerSettings(failure_threshold=1, minimum_calls=1, failure_ratio=0.01)}


def blamed(gateway: Inside) -> bool:
    """Return whether anything was counted against an upstream."""
    found = False
    for room in gateway.plane.snapshot.routes.compiled_routes:
        for destination in room.destinations:
            for index in range(len(destination.balancer.targets)):
                vitals = destination.balancer.selector.look(index, monotonic_ns())
                found |= vitals.breaker != "closed" or bool(vitals.failures or vitals.ejections or vitals.window[1])
    return found


async def ask(gateway: Inside, body: bytes = WHOLE, *headers: tuple[str, str]) -> tuple[int, str]:
    async with Downstream(gateway.url) as client:
        answer = await client.ask("POST", CHAT, body, [*JSON, *headers])
        return answer.status, "" if answer.status == 200 else answer.json()["error"]["code"]


# ---------------------------------------------------------------- the client


@pytest.mark.parametrize("body", [WHOLE, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("wait", ["1ms", "700ms"])
async def test_a_client_in_a_hurry_is_nobodys_failure(tmp_path: Path, body: bytes, wait: str) -> None:
    async with FaultyUpstream(faults.silent()) as one, FaultyUpstream(faults.silent()) as two:
        async with inside([one.url, two.url], tmp_path, **STRICT) as gateway:
            answers = await asyncio.gather(*(ask(gateway, body, ("X-Request-Timeout", wait)) for _ in range(16)))
            assert set(answers) == {(504, "deadline_exceeded")}
            await gateway.at_rest()
            assert not blamed(gateway)


async def test_the_routes_own_deadline_still_counts(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.silent()) as upstream:
        async with inside(upstream.url, tmp_path, timeouts={"first_byte_s": 0.2}, **STRICT) as gateway:
            assert await ask(gateway, WHOLE, ("X-Request-Timeout", "30")) == (504, "upstream_timeout")
            assert blamed(gateway)


async def test_a_half_open_trial_of_a_client_in_a_hurry_gives_its_place_back(tmp_path: Path) -> None:
    breaker = {"breaker": BreakerSettings(failure_threshold=1, open_s=0.1, half_open_max_calls=1)}
    async with FaultyUpstream(faults.status(500), faults.silent(), faults.chat("well")) as upstream:
        async with inside(upstream.url, tmp_path, outliers=None, **breaker) as gateway:
            assert (await ask(gateway))[0] == 500
            selector = gateway.plane.snapshot.routes.compiled_routes[0].destinations[0].balancer.selector
            await gateway.until(lambda: selector.look(0, monotonic_ns()).breaker == "half_open")
            assert await ask(gateway, WHOLE, ("X-Request-Timeout", "1ms")) == (504, "deadline_exceeded")
            assert (await ask(gateway))[0] == 200
            assert selector.look(0, monotonic_ns()).breaker == "closed"


async def test_a_whole_time_that_a_reader_used_up_is_its_own(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.endless()) as upstream:
        async with inside(upstream.url, tmp_path, timeouts={"total_s": 0.6}, **STRICT) as gateway:
            async with Downstream(gateway.url) as client:
                client.receive_at_most(4096)
                await client.send(request_bytes(client.host, "POST", CHAT, STREAM, JSON))
                client.read_no_more()
                await gateway.until(lambda: not gateway.in_flight)
                (line,) = await gateway.lines(1)
                assert line["outcome"] == "truncated"
            assert not blamed(gateway)


async def test_a_whole_time_that_an_upload_used_up_is_the_clients(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.silent()) as upstream:
        async with inside(upstream.url, tmp_path, timeouts={"total_s": 0.8}, **STRICT) as gateway:
            async with Downstream(gateway.url) as client:
                wire = request_bytes(client.host, "POST", CHAT, WHOLE, JSON)
                await client.send(wire[:-4])
                deadline = asyncio.get_running_loop().time() + 0.7
                while asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(0.01)
                await client.send(wire[-4:])
                assert (await client.answer()).status == 504
            await gateway.at_rest()
            assert not blamed(gateway)


async def test_an_upstream_that_waits_for_an_upload_no_longer_is_not_to_blame(tmp_path: Path) -> None:
    async def tired(peer: Peer) -> None:
        await peer.data_arrives()
        peer.close()

    async with FaultyUpstream(faults.chat(), greeting=tired) as upstream:
        async with inside(upstream.url, tmp_path, **STRICT) as gateway, Downstream(gateway.url) as client:
            head = f"POST /v1/files HTTP/1.1\r\nHost: {client.host}\r\nContent-Length: 100000\r\n\r\n"
            await client.send(head.encode() + b"x" * 1000)
            assert (await client.answer()).status == 502
            await gateway.at_rest()
            assert not blamed(gateway)
        upstream.violations.clear()


# ---------------------------------------------------------------- the gateway


async def test_without_descriptors_the_answer_is_503_and_nobody_is_blamed(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat("well")) as one, FaultyUpstream(faults.chat("well")) as two:
        async with inside([one.url, two.url], tmp_path, provider={"max_idle": 0}, **STRICT) as gateway:
            async with Downstream(gateway.url) as client:
                assert (await client.ask("POST", CHAT, WHOLE, JSON)).status == 200
                with no_descriptors():
                    answer = await client.ask("POST", CHAT, WHOLE, JSON)
                error = answer.json()["error"]
                assert (answer.status, error["code"]) == (503, "out_of_resources")
                assert "ulimit -n" in error["message"]
                assert answer.header("retry-after")
                # The client's own connection takes one of those that are missing.
                assert answer.header("connection") == "close"
            assert not blamed(gateway)
            assert (await ask(gateway))[0] == 200


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOBUFS, "memory"), (errno.ENOMEM, "memory"), (errno.EADDRNOTAVAIL, "local ports"), (errno.ENFILE, "file")],
)
async def test_so_it_is_with_everything_else_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    async def short(*_: object) -> socket.socket:
        raise OSError(number, "")

    async with FaultyUpstream(faults.chat("well")) as upstream:
        async with inside(upstream.url, tmp_path, **STRICT) as gateway:
            monkeypatch.setattr(race, "_connected", short)
            async with Downstream(gateway.url) as client:
                answer = await client.ask("POST", CHAT, WHOLE, JSON)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "out_of_resources")
            assert says in answer.json()["error"]["message"]
            assert not blamed(gateway)


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "is not there"])
async def test_without_a_resolver_the_answer_is_503_and_nobody_is_blamed(tmp_path: Path, hangs: bool) -> None:
    async def nobody(name: str) -> Addresses:
        if hangs:
            await asyncio.Event().wait()
        raise DNSError(ARES_ECONNREFUSED, "Could not contact DNS servers")

    provider = {"connect_timeout_s": 0.2}
    async with FaultyUpstream(faults.chat("well")) as upstream:
        beside = {"/v1/other": upstream.url}
        async with inside("http://model.example:1", tmp_path, provider=provider, beside=beside, **STRICT) as gateway:
            gateway.plane._resolver._ask = nobody
            lost = [asyncio.create_task(ask(gateway)) for _ in range(24)]
            async with Downstream(gateway.url) as client:
                # One name that hangs is no other upstream's trouble.
                assert (await client.ask("POST", "/v1/other", WHOLE, JSON)).status == 200
            assert set(await asyncio.gather(*lost)) == {(503, "resolver_unavailable")}
            await gateway.at_rest()
            assert not blamed(gateway)


async def test_a_name_that_is_none_is_the_upstreams_failure(tmp_path: Path) -> None:
    async def none(name: str) -> Addresses:
        raise DNSError(ARES_ENOTFOUND, "Domain name not found")

    async with inside("http://model.example:1", tmp_path, **STRICT) as gateway:
        gateway.plane._resolver._ask = none
        assert await ask(gateway) == (502, "upstream_connect")
        assert blamed(gateway)


async def test_a_name_leads_to_the_address_that_answers(tmp_path: Path) -> None:
    async def two(name: str) -> Addresses:
        return ((socket.AF_INET, "127.0.0.2", 0), (socket.AF_INET, "127.0.0.1", 0)), 60.0

    async def answer(peer: Peer, request: Received) -> None:
        await faults.chat("well")(peer, request)

    async with FaultyUpstream(answer) as upstream:
        port = upstream.url.rpartition(":")[2]
        async with inside(f"http://model.example:{port}", tmp_path, **STRICT) as gateway:
            gateway.plane._resolver._ask = two
            assert (await ask(gateway))[0] == 200
            assert not blamed(gateway)
