"""Overload: a late loop or short memory refuses new exchanges, and lets the operator through."""

from __future__ import annotations

import asyncio
import time

import pytest
from downstream import Downstream
from integration.operated import CHAT, JSON, PLAIN_BODY, model_server, streams
from upstreams.faulty import FaultyUpstream

from budgateway.config.endpoint import parse_endpoint
from budgateway.process.embedded import Gateway
from budgateway.records import Provider, Route, Settings

# Not marked `integration`: a late loop is what is tested here, and the watch for blocking calls would find the reason.


def settings(url: str) -> Settings:
    provider = Provider(name="openai", kind="openai", upstreams=(parse_endpoint(url),), models=("demo",))
    route = Route(name="all", path="/v1/*", provider="openai", auth_required=False)
    return Settings(
        host="127.0.0.1", port=0, metrics_enabled=False, access_log="off", drain_s=1.0, providers=(provider,), routes=(route,)
    )  # fmt: skip


async def status_of(gateway: Gateway, method: str, path: str) -> tuple[int, str | None]:
    async with Downstream(gateway.url) as client:
        body = PLAIN_BODY if method == "POST" else None
        answer = await client.ask(method, path, body, JSON if body else ())
        return answer.status, answer.header("retry-after")


async def test_a_loop_that_is_late_twice_sheds_until_it_is_in_time() -> None:
    gate = asyncio.Event()
    async with FaultyUpstream(model_server(gate)) as upstream, Gateway(settings(upstream.url)) as gateway:
        time.sleep(0.6)
        await asyncio.sleep(0)
        assert (await status_of(gateway, "POST", CHAT))[0] == 200, "one long step is no overload"
        for _ in range(2):
            time.sleep(0.6)
            await asyncio.sleep(0)
        status, retry_after = await status_of(gateway, "POST", CHAT)
        assert status == 503
        assert retry_after is not None
        assert (await status_of(gateway, "GET", "/livez"))[0] == 200
        async with asyncio.timeout(10):
            while (await status_of(gateway, "POST", CHAT))[0] != 200:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("times", [1, 3])
async def test_connections_wait_while_none_is_accepted(times: int) -> None:
    gate = asyncio.Event()
    async with FaultyUpstream(model_server(gate)) as upstream, Gateway(settings(upstream.url)) as gateway:
        assert gateway._plane is not None
        for _ in range(times):
            async with Downstream(gateway.url) as old:
                assert (await old.ask("POST", CHAT, PLAIN_BODY, JSON)).status == 200
                gateway._plane.accept(False)
                async with Downstream(gateway.url) as new:
                    waiting = asyncio.create_task(new.ask("POST", CHAT, PLAIN_BODY, JSON))
                    # Those that are open are served as before.
                    assert (await old.ask("POST", CHAT, PLAIN_BODY, JSON)).status == 200
                    assert len(gateway._plane.server_state.connections) == 1
                    assert not waiting.done()
                    gateway._plane.accept(True)
                    assert (await waiting).status == 200


async def test_a_gateway_that_does_not_accept_ends() -> None:
    async with Gateway(settings("http://127.0.0.1:9")) as gateway:
        assert gateway._plane is not None
        gateway._plane.accept(False)
        gateway._plane.accept(True)
        gateway._plane.accept(False)
        url = gateway.url
    with pytest.raises(ConnectionRefusedError):
        async with Downstream(url):
            pass


async def test_short_memory_sheds_what_is_new_and_ends_nothing() -> None:
    gate = asyncio.Event()
    async with FaultyUpstream(model_server(gate)) as upstream, Gateway(settings(upstream.url)) as gateway:
        async with streams(gateway.url, 3) as opened:
            assert gateway._plane is not None
            gateway._plane.shed("memory is short")
            await asyncio.sleep(0.6)  # a sweep in time must not take it back
            assert (await status_of(gateway, "POST", CHAT))[0] == 503
            async with Downstream(gateway.url) as client:
                metrics = (await client.ask("GET", "/metrics")).body.decode()
            assert 'budgateway_worker_shedding{worker="0"} 1.0' in metrics
            gate.set()
            assert await opened.ends() == {"whole": 3}
            gateway._plane.shed("")
            assert (await status_of(gateway, "POST", CHAT))[0] == 200
