"""Keepers go on, whatever they meet: no reader, a full disk, broken certificates, cleaned folders."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from downstream import Downstream
from integration.certificates import Authority
from integration.operated import Operated, is_alive, model_server, once, operated
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(model_server(asyncio.Event())) as served:
        yield served


async def until(holds: Callable[[], bool], gateway: Operated) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError(gateway.server.output)


async def test_a_closed_standard_output_is_no_other_file(upstream: FaultyUpstream) -> None:
    """Access lines would be written to whatever is opened first."""
    words = ["sh", "-c", 'exec "$@" >&-', "sh"]
    async with operated([upstream.url], before=words, settings={"access_log": "stdout"}) as gateway:
        assert [await once(gateway.url) for _ in range(8)] == ["200"] * 8
        for pid in (gateway.server.process.pid, *await gateway.pids()):
            assert Path(f"/proc/{pid}/fd/1").readlink() == Path("/dev/null")


async def replace_all(gateway: Operated) -> None:
    """Kill every worker and wait until others serve in all places."""
    before = await gateway.pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await gateway.until(
        lambda facts: (
            [worker["state"] for worker in facts["workers"]] == ["ready"] * len(before)
            and not {worker["pid"] for worker in facts["workers"]} & set(before)
        )
    )


@pytest.mark.parametrize("out", [">/dev/full", ">&-", "| true"])
async def test_a_standard_output_that_takes_nothing_keeps_nobody_from_serving(
    out: str, upstream: FaultyUpstream, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(10)
        # A pipe's other end is the shell's child, which ends at once.
        words = f'"$@" {out}' if out.startswith("|") else f'exec "$@" {out}'
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        async with operated([upstream.url], before=["sh", "-c", words, "sh"], env=env) as gateway:
            assert b"READY=1" in await asyncio.to_thread(notified.recv, 4096)
            await replace_all(gateway)
            assert [await once(gateway.url) for _ in range(8)] == ["200"] * 8


@pytest.mark.parametrize("becomes", ["half of it", None])
async def test_a_worker_is_replaced_while_authorities_are_broken(tmp_path: Path, becomes: str | None) -> None:
    authority = Authority(tmp_path)
    async with FaultyUpstream(faults.chat(), tls=authority.server_context()) as upstream:
        async with operated([upstream.url], provider={"tls_ca_file": str(authority.ca_file)}) as gateway:
            if becomes is None:
                authority.ca_file.unlink()
            else:
                authority.ca_file.write_text(becomes)
            assert (await gateway.call("POST", "/admin/reload-config"))[0] == 422
            await replace_all(gateway)
            assert [await once(gateway.url) for _ in range(8)] == ["200"] * 8


async def test_a_worker_is_replaced_while_the_access_log_cannot_be_opened(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    file = tmp_path / "logs" / "access.log"
    file.parent.mkdir()
    async with operated([upstream.url], settings={"access_log": str(file)}) as gateway:
        assert await once(gateway.url) == "200"
        await until(file.exists, gateway)
        shutil.rmtree(file.parent)
        await replace_all(gateway)
        assert [await once(gateway.url) for _ in range(8)] == ["200"] * 8
        file.parent.mkdir()
        await until(lambda: file.exists() and len(file.read_text().splitlines()) >= 8, gateway)


async def test_folders_that_are_cleaned_are_made_again(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async with operated([upstream.url], env={"TMPDIR": str(tmp_path)}) as gateway:
        (ours,) = tmp_path.glob("budgateway-*")
        instances = gateway.folder.parent / "run" / "budgateway"
        for removed in ([ours, instances], [ours / "admin.sock"], [ours / "handover.sock"], [ours / "lock"]):
            for path in removed:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            await until(lambda: len([*ours.glob("*")]) == 3 and len([*instances.glob("*.json")]) == 1, gateway)
            async with Downstream(gateway.url) as client:
                assert (await client.ask("GET", "/readyz")).status == 200
            status, said = await gateway.command("status")
            assert status == 0, said
        # Another one of this user's leaves it alone, and may take over.
        async with gateway.successor("--take-over"):
            assert await gateway.ended() == 0
            assert await once(gateway.url) == "200"
    assert [*tmp_path.iterdir()] == []


async def test_commands_find_a_gateway_whatever_their_variables_say(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async with operated([upstream.url], env={"TMPDIR": str(tmp_path)}) as gateway:
        port = gateway.url.rpartition(":")[2]
        gateway.environment = {"JWT_SECRET": gateway.environment["JWT_SECRET"]}
        for variables in ({}, {"XDG_RUNTIME_DIR": str(tmp_path / "x")}, {"RUNTIME_DIRECTORY": str(tmp_path / "r")}):
            gateway.environment = {"JWT_SECRET": "x" * 32} | variables
            for command in ("status", "reload"):
                status, said = await gateway.command(command, "--port", port)
                assert status == 0, said


async def test_a_killed_gateway_s_card_is_not_the_gateway(upstream: FaultyUpstream) -> None:
    async with operated([upstream.url]) as gateway:
        pid = gateway.server.process.pid
        instances = gateway.folder.parent / "run" / "budgateway"
        text = (instances / f"{pid}.json").read_text()
        pids = await gateway.pids()
        gateway.server.process.kill()
        await gateway.ended()
        async with asyncio.timeout(10):
            while any(is_alive(worker) for worker in pids):
                await asyncio.sleep(0.02)
        # As if the kernel had given its number to somebody else: this process.
        (instances / f"{os.getpid()}.json").write_text(text.replace(f'"pid": {pid}', f'"pid": {os.getpid()}'))
        async with gateway.successor("--take-over"):
            status, said = await gateway.command("status")
            assert status == 0, said
            assert await once(gateway.url) == "200"
