"""Selection by health: upstreams that stop, fail, are flooded, recover or have other models, over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from downstream import Downstream
from integration.operated import CHAT, JSON, Operated, model_server, operated, streams
from integration.processes import Server, running
from upstreams import faults
from upstreams.engine import Engine
from upstreams.llamacpp import MODEL

from budgateway.process.embedded import Gateway
from budgateway.records import HealthCheck, Provider, Route, Settings, Upstream

pytestmark = pytest.mark.integration

PROBED: dict[str, Any] = {"health_check_enabled": True, "health_check_interval": 30}


def body(model: str = "demo") -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]}).encode()


async def ask(url: str, count: int = 1, *, model: str = "demo", path: str = CHAT) -> Counter[int]:
    """So many requests, one after the other on one connection: how often each status."""
    found: Counter[int] = Counter()
    async with Downstream(url) as client:
        for _ in range(count):
            found[(await client.ask("POST", path, body(model), JSON)).status] += 1
    return found


async def shown(gateway: Operated) -> list[dict[str, Any]]:
    upstreams: list[dict[str, Any]] = (await gateway.stats())["upstreams"]
    return upstreams


async def until(gateway: Operated, holds: Callable[[list[dict[str, Any]]], bool], timeout_s: float = 15.0) -> float:
    return await gateway.until(lambda facts: holds(facts["upstreams"]), timeout_s)


@asynccontextmanager
async def engines(*models: tuple[str, ...]) -> AsyncIterator[list[Engine]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Engine(*names)) for names in models]


@asynccontextmanager
async def demo_servers(count: int) -> AsyncIterator[list[Server]]:
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(count):
            context = running([sys.executable, "-m", "budgateway.demo", "--port", "0", "--token-delay", "0"])
            server = await asyncio.to_thread(context.__enter__)
            stack.push_async_callback(asyncio.to_thread, context.__exit__, None, None, None)
            servers.append(server)
        for server in servers:
            await asyncio.to_thread(server.wait_for_url)
        yield servers


async def test_a_stopped_engine_is_out_within_three_seconds_and_comes_back() -> None:
    """R16: it accepts connections and says nothing, and the next regular probe is half a minute away."""
    async with demo_servers(2) as servers:
        urls = [server.url for server in servers]
        async with operated(urls, kind="vllm", provider=PROBED) as gateway:
            await until(gateway, lambda found: all((one["probe"] or {}).get("healthy") for one in found))
            stopping = asyncio.Event()

            async def keep_asking() -> None:
                while not stopping.is_set():
                    await ask(gateway.url)

            clients = [asyncio.create_task(keep_asking()) for _ in range(4)]
            await asyncio.sleep(0.3)
            servers[0].process.send_signal(signal.SIGSTOP)
            try:
                took_s = await until(gateway, lambda found: found[0]["state"] == "unhealthy")
                # Nobody new waits for it.
                began = time.monotonic()
                assert await ask(gateway.url, 30) == {200: 30}
                assert time.monotonic() - began < 15
            finally:
                servers[0].process.send_signal(signal.SIGCONT)
            await until(gateway, lambda found: found[0]["state"] in ("starting", "up"))
            stopping.set()
            await asyncio.gather(*clients)
    assert took_s < 15


async def test_with_three_of_four_failing_the_healthy_one_answers() -> None:
    """R12, and back when they are: no request fails for what is known already."""
    breaker = "[circuit_breaker]\nfailure_threshold = 3\ntimeout_duration = 0.5\nhalf_open_max_calls = 1\n"
    async with engines((), (), (), ()) as upstreams:
        urls = [upstream.url for upstream in upstreams]
        provider = {"slow_start": 0}
        async with operated(urls, provider=provider, extra=breaker) as gateway:
            for upstream in upstreams[:3]:
                upstream.chat = faults.status(500)
            # Each of them may fail until its breaker opens.
            await ask(gateway.url, 60)
            asked = sum(upstream.chats for upstream in upstreams[:3])
            began = time.monotonic()
            found = await ask(gateway.url, 200)
            # What fails now are trials of breakers that are half open, one a breaker each half second.
            trials = 3 * (1 + (time.monotonic() - began) / 0.5)
            assert found[200] >= 200 - trials
            assert sum(upstream.chats for upstream in upstreams[:3]) - asked <= trials
            for upstream in upstreams:
                upstream.chat = faults.chat()
            while not all(one["state"] == "up" for one in await shown(gateway)):
                await ask(gateway.url, 4)
                await asyncio.sleep(0.05)
            before = [upstream.chats for upstream in upstreams]
            assert await ask(gateway.url, 80) == {200: 80}
            gained = [upstream.chats - had for upstream, had in zip(upstreams, before, strict=True)]
            assert min(gained) >= 15, gained


async def test_a_breaker_half_open_lets_exactly_its_trials_through() -> None:
    """R10: under 1,000 concurrent requests, over two workers."""
    breaker = "[circuit_breaker]\nfailure_threshold = 5\ntimeout_duration = 1\nhalf_open_max_calls = 3\n"
    gate = asyncio.Event()
    async with engines(()) as [upstream], operated([upstream.url], extra=breaker) as gateway:
        upstream.chat = faults.status(500)
        await ask(gateway.url, 10)
        upstream.chat = faults.held(gate, faults.chat())
        await until(gateway, lambda found: found[0]["state"] == "half_open")
        had = upstream.chats

        async def one() -> int:
            return next(iter(await ask(gateway.url)))

        asking = [asyncio.create_task(one()) for _ in range(1000)]
        # The upstream may hear of its three a moment after the others have been refused.
        async with asyncio.timeout(20):
            while sum(task.done() for task in asking) < 997 or upstream.chats - had < 3:
                await asyncio.sleep(0.02)
        gate.set()
        assert Counter(await asyncio.gather(*asking)) == {200: 3, 503: 997}
        assert upstream.chats - had == 3
        assert (await shown(gateway))[0]["state"] in ("starting", "up")


async def test_trials_close_a_breaker_when_they_begin_to_answer() -> None:
    """A stream may take minutes, and for so long nobody else would be let in."""
    breaker = "[circuit_breaker]\nfailure_threshold = 2\ntimeout_duration = 0.3\nhalf_open_max_calls = 2\n"
    gate = asyncio.Event()
    async with engines(()) as [upstream], operated([upstream.url], extra=breaker) as gateway:
        upstream.chat = faults.status(500)
        await ask(gateway.url, 2)
        upstream.chat = model_server(gate)
        await until(gateway, lambda found: found[0]["state"] == "half_open")
        async with streams(gateway.url, 2) as trials:
            await until(gateway, lambda found: found[0]["state"] in ("starting", "up"))
            assert await ask(gateway.url, 20) == {200: 20}
            gate.set()
            assert await trials.ends() == {"whole": 2}


async def test_a_model_goes_to_who_serves_it() -> None:
    async with engines(("qwen", "phi"), ("llama", "phi")) as upstreams:
        async with operated([one.url for one in upstreams], kind="vllm", provider=PROBED) as gateway:
            await until(gateway, lambda found: all(one["models"] for one in found))
            await asyncio.sleep(0.5)  # two sweeps of the workers
            assert await ask(gateway.url, 10, model="qwen") == {200: 10}
            assert [one.chats for one in upstreams] == [10, 0]
            assert await ask(gateway.url, 10, model="llama") == {200: 10}
            assert [one.chats for one in upstreams] == [10, 10]
            # What nobody lists may be anywhere.
            await ask(gateway.url, 10, model="gemma")
            assert [one.chats for one in upstreams] == [15, 15]


async def test_who_asks_for_patience_gets_a_pause() -> None:
    async with engines((), ()) as upstreams, operated([one.url for one in upstreams]) as gateway:
        upstreams[0].chat = faults.status(429, retry_after="20")
        await ask(gateway.url, 40)
        assert upstreams[0].chats <= 2
        found = await shown(gateway)
        assert [one["state"] for one in found] == ["resting", "up"]
        assert 10 < found[0]["ejections"]["out_for_s"] <= 20


async def test_the_operator_sees_probes_signals_and_reasons() -> None:
    provider = PROBED | {"health_check_interval": 0.2, "unhealthy_threshold": 2}
    async with engines(("qwen",), ("qwen",)) as upstreams:
        upstreams[0].running, upstreams[0].waiting, upstreams[0].usage = 7, 2, 0.5
        async with operated([one.url for one in upstreams], kind="vllm", provider=provider) as gateway:
            await until(gateway, lambda found: found[0]["engine"] and found[0]["engine"]["running"] == 7)
            upstreams[1].health = faults.status(500)
            await until(gateway, lambda found: found[1]["state"] == "unhealthy")
            status, document = await gateway.call("GET", "/admin/providers/health")
            assert status == 200
            (vllm,) = document["providers"]
            assert (vllm["status"], vllm["panic"]) == ("degraded", False)
            one, two = vllm["upstreams"]
            assert (one["engine"]["running"], one["engine"]["waiting"], one["engine"]["kv_usage"]) == (7, 2, 0.5)
            assert (one["probe"]["healthy"], one["probe"]["status"], one["models"]) == (True, 200, ["qwen"])
            assert (two["probe"]["healthy"], two["reason"]) == (False, "status 500")
            metrics = await gateway.metrics()
            for line in (
                'budgateway_upstream_up{upstream="vllm/0"} 1.0',
                'budgateway_upstream_up{upstream="vllm/1"} 0.0',
                'budgateway_upstream_running{upstream="vllm/0"} 7.0',
                'budgateway_upstream_kv_usage{upstream="vllm/0"} 0.5',
                'budgateway_upstream_probe_up{upstream="vllm/1"} 0.0',
            ):
                assert line in metrics
            _, printed = await gateway.command("status")
            words = " ".join(printed.split())
            assert "7 run, 2 wait, KV 50%" in words
            assert "unhealthy" in words
            assert await ask(gateway.url, 20, model="qwen") == {200: 20}
            assert upstreams[1].chats == 0


async def test_the_load_of_others_decides() -> None:
    provider = PROBED | {"health_check_interval": 0.2}
    async with engines((), ()) as upstreams:
        upstreams[0].running = 40
        route = {"load_balancer": "least_load"}
        async with operated([one.url for one in upstreams], kind="vllm", provider=provider, route=route) as gateway:
            await until(gateway, lambda found: all(one["engine"] for one in found))
            assert await ask(gateway.url, 20) == {200: 20}
            assert [one.chats for one in upstreams] == [0, 20]


async def test_one_provider_in_a_black_hole_leaves_the_other_its_place() -> None:
    """Bulkheads: what hangs is bounded by its own provider, whoever else asks is served as before."""
    good = '\n[[routes]]\npath = "/good/*"\nprovider = "good"\nauth_required = false\n'
    async with engines((), ()) as [hole, other]:
        hole.chat = faults.silent()
        more = f'[providers.good]\nkind = "openai"\nendpoints = ["{other.url}"]\nstrip_prefix = "/good"\n'
        provider = {"max_in_flight": 20, "max_queue": 20, "queue_timeout": 1.0}
        async with operated([hole.url], provider=provider) as gateway:
            for name, text in (("routes.toml", good), ("providers.toml", more)):
                with (gateway.folder / name).open("a") as file:
                    file.write(text)
            assert (await gateway.call("POST", "/admin/reload-config"))[0] == 200
            alone = await latencies(gateway.url)
            hanging = [asyncio.create_task(ask(gateway.url)) for _ in range(200)]
            try:
                await until(gateway, lambda found: found[0]["in_flight"] == 20)
                beside = await latencies(gateway.url)
                assert (await shown(gateway))[0]["in_flight"] <= 20
                # 160 found the queue full, 20 waited in vain.
                async with asyncio.timeout(15):
                    while sum(task.done() for task in hanging) < 180:
                        await asyncio.sleep(0.02)
                assert sum((task.result() for task in hanging if task.done()), Counter()) == {503: 180}
            finally:
                for task in hanging:
                    task.cancel()
                await asyncio.gather(*hanging, return_exceptions=True)
    assert beside[int(len(beside) * 0.99)] < max(0.1, 5 * alone[int(len(alone) * 0.99)])


async def latencies(url: str) -> list[float]:
    """Of 200 requests to the good provider, all answered; sorted."""
    found = []
    async with Downstream(url) as client:
        for _ in range(200):
            began = time.monotonic()
            assert (await client.ask("POST", f"/good{CHAT}", body(), JSON)).status == 200
            found.append(time.monotonic() - began)
    return sorted(found)


@pytest.mark.peers
async def test_a_real_engine_is_probed_by_its_model_list(llamacpp_url: str) -> None:
    async with operated([llamacpp_url], provider={"health_check_enabled": True}) as gateway:
        await until(gateway, lambda found: found[0]["models"] == [MODEL])
        probe = (await shown(gateway))[0]["probe"]
        assert (probe["healthy"], probe["path"], probe["status"]) == (True, "/v1/models", 200)
    generate = {"health_check_enabled": True, "health_check_generate": {"model": MODEL}}
    async with operated([llamacpp_url], provider=generate | {"health_check_timeout": 20.0}) as gateway:
        await until(gateway, lambda found: (found[0]["probe"] or {}).get("healthy") is True)
        assert (await shown(gateway))[0]["probe"]["path"] == MODEL


async def test_a_gateway_in_a_program_asks_as_it_is_told() -> None:
    async with engines(("qwen",)) as [upstream]:
        host, _, port = upstream.url.removeprefix("http://").partition(":")
        there = Upstream(url=upstream.url, tls=False, host=host, port=int(port))
        check = HealthCheck(interval_s=0.1, unhealthy_threshold=2)
        settings = Settings(
            host="127.0.0.1",
            port=0,
            metrics_port=0,
            access_log="off",
            drain_s=0.1,
            providers=(Provider("vllm", "vllm", (there,), health_check=check),),
            routes=(Route(name="chat", path=CHAT, provider="vllm", auth_required=False),),
        )
        async with Gateway(settings) as gateway:
            upstream.health = faults.status(500)
            async with asyncio.timeout(10):
                while upstream.asked.get("/health", 0) < 4:
                    await asyncio.sleep(0.02)
            # The only one there is: used all the same.
            assert await ask(gateway.url, model="qwen") == {200: 1}
