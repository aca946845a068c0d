"""A take-over is a restart without the gap, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from downstream import Downstream
from integration.operated import Clients, Operated, model_server, once, operated, streams
from ports import free_port
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration

LIMITS = """
[prices.models]
"demo" = { input = 1000000.0, output = 0.0 }
[rate_limiting]
default_output_tokens = 1
[[rate_limiting.rules]]
by = "global"
name = "rate"
requests_per_hour = 20
burst = 20
"""


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def upstream(gate: asyncio.Event) -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(model_server(gate)) as served:
        yield served


async def drained(gateway: Operated) -> None:
    """Wait for the old one's end."""
    assert await gateway.ended() == 0


async def test_limits_go_over_exactly_without_a_file(upstream: FaultyUpstream) -> None:
    async with operated([upstream.url], extra=LIMITS) as gateway:
        assert [await once(gateway.url) for _ in range(7)] == ["200"] * 7
        async with Clients(gateway.url, 2) as clients, gateway.successor("--take-over"):
            await drained(gateway)
            async with asyncio.timeout(10):
                while not clients.ends["429"]:
                    await asyncio.sleep(0.01)
            clients.stop()
        assert set(clients.ends) <= {"200", "429"}, clients.ends
        assert 7 + clients.ends["200"] == 20


async def test_concurrency_counts_what_the_old_one_still_serves(upstream: FaultyUpstream, gate: asyncio.Event) -> None:
    rule = '[[rate_limiting.rules]]\nby = "global"\nname = "at once"\nconcurrency = 3\n'
    settings = {"drain_timeout": 20.0}
    async with operated([upstream.url], extra=rule, settings=settings) as gateway:
        async with streams(gateway.url, 3) as opened, gateway.successor("--take-over"):
            assert await once(gateway.url) != "200"
            gate.set()
            assert await opened.ends() == {"whole": 3}
            async with asyncio.timeout(5):
                while await once(gateway.url) != "200":
                    await asyncio.sleep(0.02)


async def test_what_the_first_still_serves_counts_in_the_third(upstream: FaultyUpstream, gate: asyncio.Event) -> None:
    rule = '[[rate_limiting.rules]]\nby = "global"\nname = "at once"\nconcurrency = 3\n'
    async with operated([upstream.url], extra=rule, settings={"drain_timeout": 20.0}) as gateway:
        async with (
            streams(gateway.url, 3) as opened,
            gateway.successor("--take-over"),
            gateway.successor("--take-over"),
        ):
            assert await once(gateway.url) != "200"
            gate.set()
            assert await opened.ends() == {"whole": 3}
            async with asyncio.timeout(5):
                while await once(gateway.url) != "200":
                    await asyncio.sleep(0.02)


async def test_while_the_old_one_drains_commands_and_successors_find_the_new_one(
    upstream: FaultyUpstream, gate: asyncio.Event
) -> None:
    settings = {"drain_timeout": 30.0, "drain_settle": 5.0}
    async with operated([upstream.url], settings=settings) as gateway:
        async with streams(gateway.url, 4) as opened, gateway.successor("--take-over") as second:
            for words in (["status", "--json"], ["reload"], ["reload", "--port", gateway.url.rpartition(":")[2]]):
                status, said = await gateway.command(*words)
                assert status == 0, said
                if words[0] == "status":
                    assert json.loads(said)["pid"] == second.process.pid
            # It is not half of the gateway: nobody is told that it drains.
            async with Downstream(gateway.url) as probe:
                for _ in range(20):
                    assert (await probe.ask("GET", "/readyz")).status == 200
            async with gateway.successor("--take-over") as third:
                assert gateway.server.process.poll() is None
                assert await once(gateway.url) == "200"
                gate.set()
                assert await opened.ends() == {"whole": 4}
                await drained(gateway)
                # It told the third one what the first one counted to the last.
                assert await asyncio.to_thread(second.process.wait, 10) == 0
                assert third.process.poll() is None
                assert await once(gateway.url) == "200"


async def test_the_address_and_the_metrics_port_are_the_new_configurations(upstream: FaultyUpstream) -> None:
    before, after = free_port(), free_port()
    metrics = {"ENABLE_METRICS": "true", "METRICS_PORT": str(before)}
    async with operated([upstream.url], env=metrics) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        assert listens("127.0.0.1", before)
        changed = {"METRICS_PORT": str(after), "GATEWAY_HOST": "0.0.0.0", "WORKERS": "1"}
        gateway.environment.update(changed)
        async with gateway.successor("--take-over"):
            await drained(gateway)
            assert await once(gateway.url) == "200"
            assert (addresses(port), addresses(after), addresses(before)) == ({"0.0.0.0"}, {"127.0.0.1"}, set())


@pytest.mark.parametrize("workers", ["1", "4"])
async def test_another_number_of_workers_refuses_nobody(upstream: FaultyUpstream, workers: str) -> None:
    async with operated([upstream.url], workers=3) as gateway:
        gateway.environment["WORKERS"] = workers
        async with Clients(gateway.url, 6) as clients, gateway.successor("--take-over"):
            await drained(gateway)
            served = clients.ends["200"]
            async with asyncio.timeout(10):
                while clients.ends["200"] < served + 100:
                    await asyncio.sleep(0.01)
            status, said = await gateway.command("status", "--json")
            assert status == 0, said
            assert len(json.loads(said)["workers"]) == int(workers)
            clients.stop()
        assert set(clients.ends) == {"200"}, clients.ends


async def test_the_metrics_socket_is_one_process_s(upstream: FaultyUpstream, gate: asyncio.Event) -> None:
    port = free_port()
    async with operated(
        [upstream.url], env={"ENABLE_METRICS": "true", "METRICS_PORT": str(port)}, settings={"drain_timeout": 20.0}
    ) as gateway:
        assert [await once(gateway.url) for _ in range(5)] == ["200"] * 5
        async with streams(gateway.url, 2) as opened, gateway.successor("--take-over"):
            for _ in range(10):
                async with Downstream(f"http://127.0.0.1:{port}") as scraper:
                    text = (await scraper.ask("GET", "/metrics")).body.decode()
                assert 'outcome="complete"' not in text, "these are the old one's counts"
            gate.set()
            await opened.ends()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_predecessor_that_ends_in_the_middle_leaves_a_gateway(
    upstream: FaultyUpstream, number: signal.Signals
) -> None:
    """It has given its sockets and is stopped; then it ends, before the new one has told it to."""
    async with operated([upstream.url]) as gateway:
        old = gateway.server.process
        successor = gateway.successor("--take-over")
        taking = asyncio.create_task(successor.__aenter__())
        async with asyncio.timeout(20):
            while "starts to take over" not in gateway.server.output:
                await asyncio.sleep(0.001)
        old.send_signal(number)
        server = await taking
        try:
            assert server.process.poll() is None
            await gateway.ended()
            status, said = await gateway.command("status", "--json")
            assert status == 0, said
            pids = [worker["pid"] for worker in json.loads(said)["workers"]]
            assert len(pids) == 2
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                while True:
                    status, said = await gateway.command("status", "--json")
                    workers = json.loads(said)["workers"]
                    if [worker["state"] for worker in workers] == ["ready"] * 2:
                        break
            assert [await once(gateway.url) for _ in range(8)] == ["200"] * 8, server.output
        finally:
            await successor.__aexit__(None, None, None)


async def test_a_successor_that_cannot_start_leaves_the_old_one_as_it_was(upstream: FaultyUpstream) -> None:
    async with operated([upstream.url]) as gateway:
        gateway.environment["METRICS_PORT"] = gateway.url.rpartition(":")[2]
        gateway.environment["ENABLE_METRICS"] = "true"
        gateway.environment["METRICS_HOST"] = "192.0.2.1"
        process = await asyncio.create_subprocess_exec(
            *gateway.serve, "--take-over", env={"PATH": os.environ["PATH"]} | gateway.environment,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await process.communicate()
        assert process.returncode == 1, said
        assert [await once(gateway.url) for _ in range(8)] == ["200"] * 8
        assert gateway.server.process.poll() is None


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def addresses(port: int) -> set[str]:
    """The addresses that listen on that port (proc(5), /proc/net/tcp)."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        address, _, at = words[1].partition(":")
        if words[3] == "0A" and int(at, 16) == port:
            found.add(socket.inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder)))
    return found
