"""Many workers are one gateway: killed, restarted and stopped under load (RELIABILITY R4, R6, R7, L1)."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.operated import (
    CHAT,
    ENDLESS_BODY,
    JSON,
    PLAIN_BODY,
    Clients,
    Operated,
    is_alive,
    model_server,
    once,
    open_files,
    operated,
    streams,
)
from integration.sizes import long
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


async def kill_and_wait(gateway: Operated) -> float:
    """Kill a worker: seconds until another serves in its place."""
    victim = random.choice(await gateway.pids())
    os.kill(victim, signal.SIGKILL)
    return await gateway.until(
        lambda facts: [worker["state"] for worker in facts["workers"] if worker["pid"] != victim] == ["ready"] * 2
    )


@pytest.mark.parametrize(("kills", "pause_s"), [(3, 0.3), long("KILLS", 100, 2.0)])
async def test_a_killed_worker_costs_its_own_exchanges_and_no_connection(
    kills: int, pause_s: float, gate: asyncio.Event
) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        took = []
        async with Clients(gateway.url, 6) as clients:
            for _ in range(kills):
                await asyncio.sleep(pause_s)
                took.append(await kill_and_wait(gateway))
            await asyncio.sleep(0.3)
        print(f"respawn s: median {sorted(took)[kills // 2]:.3f}, worst {max(took):.3f}; {dict(clients.ends)}")
        lost = clients.ends.total() - clients.ends["200"]
        assert clients.ends["refused"] == 0
        assert lost <= kills * 6, clients.ends
        assert clients.ends["200"] > lost
        assert f"budgateway_worker_restarts_total {kills}.0" in await gateway.metrics()
        # The dead ones' counts died with them.
        await gateway.until(lambda facts: facts["in_flight"] == facts["connections"] == 0)
        assert [shown["in_flight"] for shown in (await gateway.stats())["upstreams"]] == [0]


async def test_a_worker_whose_loop_stands_still_is_replaced(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], settings={"worker_timeout": 2.0}) as gateway:
            victim = (await gateway.pids())[0]
            os.kill(victim, signal.SIGSTOP)
            await gateway.until(
                lambda facts: victim not in [worker["pid"] for worker in facts["workers"]] and is_ready(facts, 2)
            )
            assert "been blocked for" in gateway.server.output
            assert "budgateway_worker_hung_total 1.0" in await gateway.metrics()
            assert await once(gateway.url) == "200"


async def test_nobody_is_ended_because_all_stood_still(gate: asyncio.Event) -> None:
    """A machine that was suspended, a container that was frozen, a supervisor that was stopped."""
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], settings={"worker_timeout": 2.0}) as gateway:
            pids = await gateway.pids()
            everybody = [*pids, gateway.server.process.pid]
            for pid in everybody:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(3)
            # The supervisor looks before any worker had a turn.
            for pid in reversed(everybody):
                os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(1.5)
            assert await gateway.pids() == pids
            assert "been blocked" not in gateway.server.output


def is_ready(facts: dict[str, Any], workers: int) -> bool:
    return [worker["state"] for worker in facts["workers"]] == ["ready"] * workers


async def test_workers_are_forks_of_the_spare(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url], workers=1) as gateway:
        supervisor = gateway.server.process.pid
        (served,) = await gateway.pids()
        (spare,) = await waits(supervisor, served)
        for _ in range(3):
            os.kill(served, signal.SIGKILL)
            served = await follows(gateway, served)
            assert started_by(served) == supervisor and command(served) == command(spare)
            assert await waits(supervisor, served) == [spare]
            # A Ctrl-C at the terminal is the supervisor's to pass on.
            assert os.getsid(served) == served
        # Without one a worker is started all the same, and there is another spare soon.
        os.kill(spare, signal.SIGKILL)
        os.kill(served, signal.SIGKILL)
        served = await follows(gateway, served)
        assert await once(gateway.url) == "200"
        (other,) = await waits(supervisor, served, spare)
        # A restart begins with what is installed now.
        gateway.signal(signal.SIGUSR2)
        served = await follows(gateway, served)
        (newest,) = await waits(supervisor, served, spare, other)
        assert command(served) == command(newest)
        # Its copies of the sockets keep nobody waiting.
        gateway.signal(signal.SIGTERM)
        await refuses(gateway.url)
        assert await gateway.ended() == 0


async def test_a_spare_that_is_stopped_keeps_no_worker_from_its_place(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url], workers=1) as gateway:
        supervisor = gateway.server.process.pid
        (served,) = await gateway.pids()
        (spare,) = await waits(supervisor, served)
        os.kill(spare, signal.SIGSTOP)
        os.kill(served, signal.SIGKILL)
        served = await follows(gateway, served)
        assert "the fork server cannot fork" in gateway.server.output
        assert await once(gateway.url) == "200"
        await waits(supervisor, served, spare)
        assert not is_alive(spare)


async def test_without_a_spare_workers_are_started_by_exec(gate: asyncio.Event) -> None:
    settings = {"spare_worker": False}
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], workers=1, settings=settings) as gateway:
            supervisor = gateway.server.process.pid
            (served,) = await gateway.pids()
            os.kill(served, signal.SIGKILL)
            served = await follows(gateway, served)
            gateway.signal(signal.SIGUSR2)
            served = await follows(gateway, served)
            assert children(supervisor) == [served]
            assert await once(gateway.url) == "200"


async def follows(gateway: Operated, before: int) -> int:
    """Wait until another worker than this one serves alone: which."""
    await gateway.until(lambda facts: replaced([before], facts) and len(facts["workers"]) == 1)
    (pid,) = await gateway.pids()
    return pid


def started_by(pid: int) -> int:
    """A process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command(pid: int) -> bytes:
    """Return a process's command line; a fork has that of its parent."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def waits(supervisor: int, *known: int) -> list[int]:
    """Wait for a child besides those that are known."""
    async with asyncio.timeout(15):
        while True:
            if others := [pid for pid in children(supervisor) if pid not in known]:
                return others
            await asyncio.sleep(0.02)


async def test_streams_of_a_killed_worker_end_and_the_others_go_on(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        async with streams(gateway.url, 12) as opened:
            await gateway.until(lambda facts: facts["in_flight"] == 12)
            facts = await gateway.stats()
            victim = facts["workers"][0]
            os.kill(victim["pid"], signal.SIGKILL)
            await gateway.until(
                lambda facts: len(facts["workers"]) == 2 and facts["workers"][0]["pid"] != victim["pid"]
            )
            await gateway.until(lambda facts: facts["upstreams"][0]["in_flight"] == 12 - victim["in_flight"])
            gate.set()
            assert await opened.ends() == {"cut": victim["in_flight"], "whole": 12 - victim["in_flight"]}


@pytest.mark.parametrize("rolls", [2, long("ROLLS", 50)])
async def test_a_rolling_restart_refuses_and_resets_nobody(rolls: int, gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        async with Clients(gateway.url, 6) as clients:
            for number in range(rolls):
                before = await gateway.pids()
                if number % 2:
                    gateway.signal(signal.SIGUSR2)
                else:
                    assert await gateway.call("POST", "/admin/restart-workers") == (
                        202,
                        {"status": "restarting", "workers": 2},
                    )
                await gateway.until(partial(replaced, before))
        print(dict(clients.ends))
        assert set(clients.ends) == {"200"}
        assert clients.ends["200"] > 20 * rolls


def replaced(before: list[int], facts: dict[str, Any]) -> bool:
    """True when other workers serve and the previous ones have ended."""
    pids = {worker["pid"] for worker in facts["workers"] if worker["state"] == "ready"}
    return len(facts["workers"]) == len(pids) == len(before) and not pids & set(before)


async def test_streams_outlive_the_restart_of_their_worker(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        async with streams(gateway.url, 16) as opened:
            gateway.signal(signal.SIGUSR2)
            await gateway.until(
                lambda facts: (
                    sorted(worker["state"] for worker in facts["workers"]) == ["draining", "draining", "ready", "ready"]
                )
            )
            gate.set()
            assert await opened.ends() == {"whole": 16}
            await gateway.until(lambda facts: len(facts["workers"]) == 2)


async def test_an_upgrade_refuses_and_resets_nobody(gate: asyncio.Event) -> None:
    """A new supervisor takes the sockets of the old one, which then drains."""
    settings = {"drain_settle": 0.5, "drain_timeout": 20.0}
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url], settings=settings) as gateway:
        async with (
            streams(gateway.url, 6) as opened,
            Clients(gateway.url, 6) as clients,
            gateway.successor("--take-over") as server,
        ):
            await asyncio.sleep(1.5)
            served = clients.ends["200"]
            assert gateway.server.process.poll() is None, "it has streams to finish"
            gate.set()
            assert await opened.ends() == {"whole": 6}
            assert await gateway.ended() == 0
            await asyncio.sleep(0.3)
            assert server.process.poll() is None
            assert clients.ends["200"] > served
            clients.stop()
        print(dict(clients.ends))
        assert set(clients.ends) == {"200"}


async def test_with_nobody_to_follow_a_gateway_just_starts() -> None:
    async with operated(["http://127.0.0.1:9"], workers=1, arguments=["--take-over"]) as gateway:
        assert len(await gateway.pids()) == 1


async def test_sigterm_is_not_ready_first_then_drains(gate: asyncio.Event) -> None:
    settings = {"drain_settle": 1.0, "drain_timeout": 5.0}
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url], settings=settings) as gateway:
        async with streams(gateway.url, 8) as opened:
            await gateway.until(lambda facts: facts["connections"] == 8)
            gateway.signal(signal.SIGTERM)
            async with Downstream(gateway.url) as probe:
                while (answer := await probe.ask("GET", "/readyz")).status == 200:
                    await asyncio.sleep(0.01)
            assert (answer.status, answer.json()["status"]) == (503, "draining")
            assert await once(gateway.url) == "200", "while it settles it serves"
            await refuses(gateway.url)
            gate.set()
            assert await opened.ends() == {"whole": 8}
        assert await gateway.ended() == 0


async def test_a_client_that_came_just_now_is_settled_for(gate: asyncio.Event) -> None:
    """Workers publish how many connections they have with each sweep, four times a second."""
    settings = {"drain_settle": 1.5, "drain_timeout": 5.0}
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url], settings=settings) as gateway:
        await gateway.until(lambda facts: facts["connections"] == 0)
        async with Downstream(gateway.url) as client:
            gateway.signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            assert await once(gateway.url) == "200"
            assert (await client.ask("GET", "/readyz")).status == 503
        assert await gateway.ended() == 0


@pytest.mark.parametrize("count", [40, long("STREAMS", 2000)])
async def test_sigterm_with_many_streams(count: int, gate: asyncio.Event) -> None:
    """Not ready first; what can finish does; the rest is told at the deadline, and then it ends."""
    settings = {"drain_settle": 2.0, "drain_timeout": 4.0, "max_connections": 20_000}
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url], settings=settings) as gateway:
        async with (
            streams(gateway.url, count // 2) as ending,
            streams(gateway.url, count // 2, ENDLESS_BODY) as endless,
            Downstream(gateway.url) as probe,
        ):
            assert (await probe.ask("GET", "/readyz")).status == 200
            await gateway.until(lambda facts: facts["connections"] == count + 1)
            began = time.monotonic()
            gateway.signal(signal.SIGTERM)
            while (await probe.ask("GET", "/readyz")).status == 200:
                await asyncio.sleep(0.01)
            assert await once(gateway.url) == "200", "while it settles it serves"
            gate.set()
            assert await ending.ends() == {"whole": count // 2}
            assert await endless.ends() == {"told": count // 2}
            told_s = time.monotonic() - began
        assert await gateway.ended() == 0
        print(f"{count} streams: the last was told after {told_s:.1f} s, exit after {time.monotonic() - began:.1f} s")


async def test_streams_that_outlast_the_drain_are_told(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], settings={"drain_timeout": 0.5}) as gateway:
            async with streams(gateway.url, 8) as opened:
                gateway.signal(signal.SIGTERM)
                assert await opened.ends() == {"told": 8}
            assert await gateway.ended() == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_the_drain(first: signal.Signals, gate: asyncio.Event) -> None:
    settings = {"drain_settle": 60.0, "drain_timeout": 60.0}
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url], settings=settings) as gateway:
        async with streams(gateway.url, 4) as opened:
            began = time.monotonic()
            gateway.signal(first)
            await asyncio.sleep(0.3)
            gateway.signal(signal.SIGTERM)
            assert await opened.ends() == {"told": 4}
            assert await gateway.ended() == 0
            assert time.monotonic() - began < 10


async def test_without_its_supervisor_a_worker_drains_and_ends(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], settings={"drain_timeout": 20.0}) as gateway:
            pids = await gateway.pids()
            async with streams(gateway.url, 6) as opened:
                gateway.server.process.kill()
                await refuses(gateway.url)
                gate.set()
                assert await opened.ends() == {"whole": 6}
            async with asyncio.timeout(10):
                while any(is_alive(pid) for pid in pids):
                    await asyncio.sleep(0.02)


async def test_the_next_gateway_starts_beside_the_workers_of_a_killed_supervisor(gate: asyncio.Event) -> None:
    """On the same port, at once, while they finish what they have."""
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], settings={"drain_timeout": 20.0}) as gateway:
            pids = await gateway.pids()
            supervisor = gateway.server.process.pid
            spare = (await waits(supervisor, *pids))[0]
            # So many that each worker has some: one without any ends at once.
            async with streams(gateway.url, 16) as opened:
                gateway.server.process.kill()
                await refuses(gateway.url)
                async with gateway.successor():
                    assert all(is_alive(pid) for pid in pids) and not is_alive(spare)
                    assert await once(gateway.url) == "200"
                    gate.set()
                    assert await opened.ends() == {"whole": 16}
                    async with asyncio.timeout(10):
                        while any(is_alive(pid) for pid in pids):
                            await asyncio.sleep(0.02)
                    assert await once(gateway.url) == "200"


async def refuses(url: str) -> None:
    """Wait until nobody listens any more."""
    async with asyncio.timeout(10):
        while await once(url) != "refused":
            await asyncio.sleep(0.02)


async def test_a_rate_limit_is_one_for_all_workers(gate: asyncio.Event) -> None:
    """One request a minute refills less than one in the time of the test: the burst is what there is."""
    route = {"rate_limit": 1, "burst_capacity": 60}
    async with (
        FaultyUpstream(model_server(gate)) as upstream,
        operated([upstream.url], workers=4, route=route) as gateway,
    ):
        ends = await asyncio.gather(*(once(gateway.url) for _ in range(150)))
        assert (ends.count("200"), ends.count("429")) == (60, 90)
        served = [worker for worker in (await gateway.stats())["workers"] if open_files(worker["pid"])]
        assert len(served) == 4
        assert len(upstream.requests) == 60


async def test_exchanges_in_flight_are_counted_over_all_workers(gate: asyncio.Event) -> None:
    """The least busy upstream is the same one whoever asks."""
    async with FaultyUpstream(model_server(gate)) as one, FaultyUpstream(model_server(gate)) as two:
        route = {"load_balancer": "least_connections"}
        async with operated([one.url, two.url], workers=4, route=route) as gateway:
            async with streams(gateway.url, 40) as opened:
                facts = await gateway.stats()
                assert [shown["in_flight"] for shown in facts["upstreams"]] == [20, 20]
                gate.set()
                assert await opened.ends() == {"whole": 40}
            await gateway.until(lambda facts: [shown["in_flight"] for shown in facts["upstreams"]] == [0, 0])


async def test_a_worker_that_cannot_start_ends_the_gateway_at_its_start(tmp_path: Path) -> None:
    """The access log's folder is there when the configuration is checked, and a folder is no file."""
    with pytest.raises(AssertionError, match="exited at start"):
        async with operated(["http://127.0.0.1:9"], settings={"access_log": str(tmp_path)}):
            pass


async def test_a_kept_connection_is_told_that_its_answer_is_the_last(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], workers=1) as gateway, Downstream(gateway.url) as client:
            assert (await client.ask("POST", CHAT, PLAIN_BODY, JSON)).header("connection") is None
            old = await gateway.pids()
            gateway.signal(signal.SIGUSR2)
            await gateway.until(
                lambda facts: any(worker["pid"] in old and worker["state"] == "draining" for worker in facts["workers"])
            )
            answer = await client.ask("POST", CHAT, PLAIN_BODY, JSON)
            assert (answer.status, answer.header("connection")) == (200, "close")
            await client.closed()
            assert upstream.requests and faults


def may_unshare() -> bool:
    """True when this machine lets us be process 1 of a namespace."""
    command = ["unshare", "--fork", "--pid", "--mount-proc", "true"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="no right to a PID name space")
async def test_as_process_1_it_serves_buries_orphans_and_stops_when_told() -> None:
    before = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    async with operated(["http://127.0.0.1:9"], before=before) as gateway:
        outer = gateway.server.process.pid
        (supervisor,) = children(outer)
        assert Path(f"/proc/{supervisor}/status").read_text().split("NSpid:")[1].split()[:2] == [str(supervisor), "1"]
        orphan = ["nsenter", "--target", str(supervisor), "--pid", "sh", "-c", "sleep 0.2 & exit 0"]
        await asyncio.to_thread(subprocess.run, orphan, check=True)
        async with asyncio.timeout(5):
            while len(children(supervisor)) != 4:  # two workers and a fork server
                await asyncio.sleep(0.005)
            while len(children(supervisor)) != 3:
                await asyncio.sleep(0.02)
        os.kill(supervisor, signal.SIGTERM)
        assert await gateway.ended() == 0
