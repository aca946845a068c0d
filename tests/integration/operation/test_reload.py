"""Reloads under traffic: all workers or none, nothing cut, what is unchanged stays warm (RELIABILITY R5)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.operated import (
    CHAT,
    JSON,
    PLAIN_BODY,
    Clients,
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

RELOAD = ("POST", "/admin/reload-config")
BROKEN = '[gateway2]\nx = 1\n[circuit_breaker]\nfailure_threshold = "many"\n'


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


async def test_a_reload_answers_with_the_difference_and_switches_every_worker(gate: asyncio.Event) -> None:
    async with (
        FaultyUpstream(faults.chat("one")) as one,
        FaultyUpstream(faults.chat("two")) as two,
        operated([one.url], workers=3) as gateway,
    ):
        gateway.configure(
            [two.url],
            paths=("/v1/*", "/more/*"),
            settings={"workers": 3, "keepalive_timeout": 5.0, "access_log": "off"},
        )
        status, difference = await gateway.call(*RELOAD)
        assert (status, difference["status"], difference["changed"]) == (200, "reloaded", True)
        assert difference["routes"] == {"added": ["/more/*"], "removed": [], "changed": []}
        assert difference["upstreams"] == {"added": [two.url], "removed": [one.url], "changed": []}
        assert difference["providers"]["changed"] == [{"name": "openai", "fields": ["upstreams"]}]
        assert difference["settings"] == [{"name": "keepalive_s", "before": 75, "after": 5.0}]
        assert [await once(gateway.url) for _ in range(30)] == ["200"] * 30
        assert (len(one.requests), len(two.requests)) == (0, 30)
        assert [shown["url"] for shown in (await gateway.stats())["upstreams"]] == [two.url]


async def test_a_bad_configuration_changes_nothing_and_names_every_problem(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        gateway.configure(["ftp://nowhere"], extra=BROKEN)
        status, document = await gateway.call(*RELOAD)
        assert status == 422
        assert document["error"]["code"] == "config"
        found = "\n".join(document["error"]["problems"])
        assert [word for word in ("gateway2", "failure_threshold", "http:// or https://") if word not in found] == []
        assert await once(gateway.url) == "200"


@pytest.mark.parametrize("asked", ["admin API", "signal"])
async def test_why_a_configuration_is_refused_is_logged_whoever_asked(gate: asyncio.Event, asked: str) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        gateway.configure(["ftp://nowhere"], extra=BROKEN)
        if asked == "signal":
            gateway.signal(signal.SIGHUP)
            await gateway.until(lambda _: "reload refused" in gateway.server.output)
        else:
            assert (await gateway.call(*RELOAD))[0] == 422
            assert (await gateway.call("POST", "/admin/rollback-config"))[0] == 422
        refused = [line for line in gateway.server.output.splitlines() if "reload refused" in line]
        for word in ("gateway2", "failure_threshold", "http:// or https://"):
            assert sum(word in line for line in refused) == 1, refused
        assert await once(gateway.url) == "200"


async def test_what_needs_a_restart_is_refused_by_name(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        gateway.configure([upstream.url], settings={"workers": 3, "host": "0.0.0.0", "access_log": "off"})
        status, document = await gateway.call(*RELOAD)
        assert status == 422
        assert document["error"]["problems"] == [
            "gateway.host: changing 127.0.0.1 to 0.0.0.0 needs a restart of the gateway",
            "gateway.workers: changing 2 to 3 needs a restart of the gateway",
        ]
        assert len((await gateway.stats())["workers"]) == 2


async def test_one_worker_that_cannot_build_it_keeps_all_on_the_old(gate: asyncio.Event) -> None:
    """The segment has room for 1,024 upstreams, which the configuration's own check does not know of."""
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        gateway.configure([upstream.url, *(f"http://127.0.0.1:{port}" for port in range(10_000, 11_100))])
        status, document = await gateway.call(*RELOAD)
        assert status == 422, document
        assert [await once(gateway.url) for _ in range(10)] == ["200"] * 10
        assert len(upstream.requests) == 10


async def test_a_rollback_brings_the_previous_one_back(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        status, document = await gateway.call("POST", "/admin/rollback-config")
        assert (status, document["error"]["problems"]) == (422, ["there is no earlier configuration"])
        gateway.configure([upstream.url], paths=("/elsewhere/*",))
        assert (await gateway.call(*RELOAD))[0] == 200
        assert await once(gateway.url) == "404"
        status, difference = await gateway.call("POST", "/admin/rollback-config")
        assert (status, difference["routes"]["added"]) == (200, ["/v1/*"])
        assert await once(gateway.url) == "200"


async def test_unchanged_upstreams_keep_their_connections_and_their_state(gate: asyncio.Event) -> None:
    async with (
        FaultyUpstream(model_server(gate)) as upstream,
        FaultyUpstream(model_server(gate)) as other,
        operated([upstream.url, other.url], workers=1, provider={"keepalive_timeout": 30.0}) as gateway,
        Downstream(gateway.url) as client,
    ):
        assert (await gateway.call("POST", "/admin/upstreams/openai/1/drain"))[0] == 200
        await client.ask("POST", CHAT, PLAIN_BODY, JSON)
        gateway.configure([upstream.url, other.url], paths=("/v1/*", "/more/*"))
        assert (await gateway.call(*RELOAD))[0] == 200
        await client.ask("POST", CHAT, PLAIN_BODY, JSON)
        assert [request.connection for request in upstream.requests] == [0, 0]
        assert [shown["state"] for shown in (await gateway.stats())["upstreams"]] == ["up", "drained"]
        assert other.requests == []


async def test_connections_to_a_removed_upstream_close_when_their_exchange_ends(gate: asyncio.Event) -> None:
    async with (
        FaultyUpstream(model_server(gate)) as old,
        FaultyUpstream(model_server(gate)) as new,
        operated([old.url], workers=1, provider={"keepalive_timeout": 30.0}) as gateway,
        Downstream(gateway.url) as client,
        streams(gateway.url, 1) as opened,
    ):
        await client.ask("POST", CHAT, PLAIN_BODY, JSON)
        gateway.configure([new.url])
        assert (await gateway.call(*RELOAD))[0] == 200
        await old.until(lambda old: old.open_connections == 1)
        gate.set()
        assert await opened.ends() == {"whole": 1}
        await old.until(lambda old: old.open_connections == 0)


@pytest.mark.parametrize(
    ("reloads", "count"), [(20, 40), long("RELOADS", 1000, int(os.environ.get("BUDGATEWAY_SOAK_STREAMS", "1000")))]
)
async def test_reloads_under_load_cut_nothing(reloads: int, count: int, gate: asyncio.Event) -> None:
    """Half of them invalid, with streams open all the while."""
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        async with streams(gateway.url, count) as opened, Clients(gateway.url, 4) as clients:
            statuses: list[int] = []
            sizes: list[Any] = []
            for number in range(reloads):
                if number % 2:
                    gateway.configure([upstream.url], paths=("/v1/*", "/broken"), extra=BROKEN)
                else:
                    gateway.configure([upstream.url], paths=("/v1/*", f"/number/{number % 4}"))
                statuses.append((await gateway.call(*RELOAD))[0])
                if number in (1, reloads - 1):
                    facts = await gateway.stats()
                    sizes.append([(open_files(worker["pid"]), worker["rss_bytes"]) for worker in facts["workers"]])
            gate.set()
            ends = await opened.ends()
        print(f"streams {dict(ends)}, requests {dict(clients.ends)}, (fds, rss) by worker {sizes}")
        assert statuses == [200, 422] * (reloads // 2)
        assert ends == {"whole": count}
        assert set(clients.ends) == {"200"}
        for (files, size), (files_after, size_after) in zip(*sizes, strict=True):
            assert abs(files_after - files) < 32, "clients come and go; nothing else does"
            assert size_after < size + 32 * 1024 * 1024


async def test_sighup_reloads(gate: asyncio.Event) -> None:
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        gateway.configure([upstream.url], paths=("/elsewhere/*",))
        gateway.signal(signal.SIGHUP)
        await until_status(gateway.url, "404")


async def test_a_renamed_access_log_is_opened_anew(gate: asyncio.Event, tmp_path: Path) -> None:
    """As logrotate does it: rename, SIGHUP. Every line is in one of the two files."""
    log, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    async with (
        FaultyUpstream(model_server(gate)) as upstream,
        operated([upstream.url], settings={"access_log": str(log)}) as gateway,
    ):
        async with Clients(gateway.url, 4) as clients:
            await until_lines(log, 20)
            log.rename(rotated)
            gateway.signal(signal.SIGHUP)
            await until_lines(log, 20)
            # Lines of before the rename that were still on their way have arrived by now, too.
            before = len(rotated.read_text().splitlines())
        await gateway.until(lambda facts: facts["in_flight"] == 0)
        assert len(rotated.read_text().splitlines()) == before
    kept = [line for file in (rotated, log) for line in file.read_text().splitlines()]
    paths = [json.loads(line)["path"] for line in kept]
    assert paths.count(CHAT) == clients.ends.total() == clients.ends["200"]


async def until_lines(log: Path, count: int) -> None:
    async with asyncio.timeout(15):
        while not log.is_file() or log.read_bytes().count(b"\n") < count:
            await asyncio.sleep(0.02)


async def test_a_watched_folder_is_reloaded_when_it_changes(gate: asyncio.Event) -> None:
    settings = {"watch": True}
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url], settings=settings) as gateway:
        gateway.configure(
            [upstream.url], paths=("/elsewhere/*",), settings={"workers": 2, "watch": True, "access_log": "off"}
        )
        await until_status(gateway.url, "404")


async def until_status(url: str, status: str) -> None:
    async with asyncio.timeout(10):
        while await once(url) != status:
            await asyncio.sleep(0.02)


async def test_an_exchange_keeps_the_configuration_it_began_under(gate: asyncio.Event) -> None:
    """Its route is gone, its upstream drained; it ends as it began."""
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        async with streams(gateway.url, 4) as opened:
            gateway.configure([upstream.url], paths=("/elsewhere/*",))
            assert (await gateway.call(*RELOAD))[0] == 200
            gate.set()
            assert await opened.ends() == {"whole": 4}


async def test_a_rotated_secret_is_taken_by_itself(tmp_path: Path) -> None:
    for name, key in (("..1", "sk-one"), ("..2", "sk-two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(key)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "key").symlink_to("..data/key")
    async with FaultyUpstream(faults.chat()) as upstream:
        async with operated(
            [upstream.url], provider={"api_key": f"file:{tmp_path}/key"}, settings={"watch": True}, workers=1
        ) as gateway:
            assert await once(gateway.url) == "200"
            # As Kubernetes renews a mounted Secret.
            (tmp_path / "..new").symlink_to("..2")
            (tmp_path / "..new").replace(tmp_path / "..data")
            async with asyncio.timeout(15):
                while "configuration reloaded" not in gateway.server.output:
                    await asyncio.sleep(0.05)
            assert await once(gateway.url) == "200"
        keys = [dict(request.headers)["authorization"] for request in upstream.requests]
        assert keys == ["Bearer sk-one", "Bearer sk-two"]
