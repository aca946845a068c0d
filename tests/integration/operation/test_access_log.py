"""The access log of several workers, as an operator rotates it: by SIGHUP whatever becomes of the reload, by SIGUSR1, by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from pathlib import Path

import pytest
from integration.inside import inside
from integration.operated import Operated, model_server, once, operated, streams
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration


async def until_there(file: Path) -> None:
    async with asyncio.timeout(10):
        while not file.exists():
            await asyncio.sleep(0.01)


async def until_lines(file: Path, count: int) -> None:
    async with asyncio.timeout(10):
        while not file.exists() or len([json.loads(line) for line in file.read_bytes().splitlines()]) < count:
            await asyncio.sleep(0.01)


def held(pid: int) -> set[str]:
    """Return the files that a process has open."""
    folder = Path(f"/proc/{pid}/fd")
    return {os.readlink(folder / name) for name in os.listdir(folder) if (folder / name).is_symlink()}


async def until_let_go(pid: int, file: Path) -> None:
    async with asyncio.timeout(10):
        while str(file) in held(pid):
            await asyncio.sleep(0.01)


def processes(pid: int) -> list[int]:
    """A gateway's supervisor and its children: workers, the fork server, whoever reads configurations."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


async def test_workers_that_share_a_pipe_write_whole_lines(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    read = bytearray()

    def slowly() -> None:
        with fifo.open("rb", buffering=0) as reader:
            while piece := reader.read(3000):
                read.extend(piece)
                if read.count(b"\n") >= 1200:
                    return

    thread = threading.Thread(target=slowly, daemon=True)
    thread.start()
    gate = asyncio.Event()
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], settings={"access_log": str(fifo)}) as gateway:
            for _ in range(30):
                await asyncio.gather(*(once(gateway.url) for _ in range(40)))
            async with asyncio.timeout(20):
                while thread.is_alive():
                    await asyncio.sleep(0.01)
    # The reader stopped at a count, and may have the beginning of one more.
    assert len([json.loads(line) for line in read[: read.rindex(b"\n")].splitlines()]) >= 1200


async def test_a_refused_reload_reopens_the_log(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    gate = asyncio.Event()
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], settings={"access_log": str(log)}) as gateway:
            for change in ({"workers": 3}, {"workers": "three"}):
                gateway.configure([upstream.url], settings=change)
                log.rename(log.with_suffix(".1"))
                gateway.signal(signal.SIGHUP)
                await until_there(log)
                # A reload by the admin API is no other one.
                log.rename(log.with_suffix(".1"))
                assert (await gateway.call("POST", "/admin/reload-config"))[0] == 422
                await until_there(log)
            for pid in await gateway.pids():
                await until_let_go(pid, log.with_suffix(".1"))
            assert await once(gateway.url) == "200"
            await until_lines(log, 1)


async def test_usr1_reopens_the_log_in_draining_workers_too(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    gate = asyncio.Event()
    async with FaultyUpstream(model_server(gate)) as upstream:
        settings = {"access_log": str(log), "drain_timeout": 30.0}
        async with operated([upstream.url], workers=1, settings=settings) as gateway:
            (old,) = await gateway.pids()
            async with streams(gateway.url, 1) as open_streams:
                gateway.signal(signal.SIGUSR2)
                await gateway.until(
                    lambda facts: sorted(worker["state"] for worker in facts["workers"]) == ["draining", "ready"]
                )
                log.rename(log.with_suffix(".1"))
                gateway.signal(signal.SIGUSR1)
                await until_there(log)
                await until_let_go(old, log.with_suffix(".1"))
                gate.set()
                assert await open_streams.ends() == {"whole": 1}
            # Its own line, and those of whoever asked for statistics.
            async with asyncio.timeout(10):
                while b'"stream":true' not in log.read_bytes():
                    await asyncio.sleep(0.01)


async def test_signals_to_every_process_of_a_gateway_end_none(tmp_path: Path) -> None:
    """As `systemctl kill` sends them, and `pkill`."""
    log = tmp_path / "access.log"
    gate = asyncio.Event()
    async with FaultyUpstream(model_server(gate)) as upstream:
        async with operated([upstream.url], settings={"access_log": str(log)}) as gateway:
            await spare_of(gateway)
            before = processes(gateway.server.process.pid)
            log.rename(log.with_suffix(".1"))
            for number in (signal.SIGHUP, signal.SIGUSR1):
                for pid in before:
                    os.kill(pid, number)
            await until_there(log)
            assert await once(gateway.url) == "200"
            await until_lines(log, 1)
            assert set(before) <= set(processes(gateway.server.process.pid))


async def spare_of(gateway: Operated) -> None:
    """Wait until there is one."""
    async with asyncio.timeout(10):
        while len(processes(gateway.server.process.pid)) < 4:
            await asyncio.sleep(0.01)


async def test_a_gateway_in_a_program_reopens_its_log(tmp_path: Path) -> None:
    gate = asyncio.Event()
    log = tmp_path / "access.log"
    async with FaultyUpstream(model_server(gate)) as upstream, inside(upstream.url, tmp_path) as gateway:
        log.rename(log.with_suffix(".1"))
        gateway.gateway.reopen_access_log()
        await until_there(log)
        assert await once(gateway.gateway.url) == "200"
        await until_lines(log, 1)
    assert log.with_suffix(".1").read_bytes() == b""
