"""The admin API: who may use it, what it says, and that it says what its OpenAPI document promises."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import jsonschema
import jwt
import pytest
from downstream import Downstream
from integration.gateways import gateway_async
from integration.operated import SECRET, model_server, once, operated
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration

AUTH = '[auth]\njwt_secret = "env:JWT_SECRET"\n'
KEY = "sk-a-key-that-nobody-may-see"


def bearer(*roles: str, secret: str = SECRET) -> tuple[str, str]:
    claims = {"sub": "op", "exp": int(time.time()) + 60, "roles": list(roles)}
    return ("authorization", "Bearer " + jwt.encode(claims, secret, algorithm="HS256"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/routes"),
        ("GET", "/admin/stats"),
        ("GET", "/admin/providers/health"),
        ("GET", "/admin/config"),
        ("GET", "/admin/openapi.json"),
        ("POST", "/admin/upstreams/openai/drain"),
        ("POST", "/admin/upstreams/openai/undrain"),
        ("POST", "/admin/reload-config"),
        ("POST", "/admin/rollback-config"),
        ("POST", "/admin/restart-workers"),
        ("GET", "/admin/nothing"),
    ],
)
async def test_only_an_admin_gets_in(method: str, path: str) -> None:
    async with operated(["http://127.0.0.1:9"], extra=AUTH, workers=1) as gateway, Downstream(gateway.url) as client:

        async def status(*headers: tuple[str, str]) -> int:
            return (await client.ask(method, path, b"" if method == "POST" else None, headers)).status

        assert await status() == 401
        assert await status(bearer("admin", secret="another secret that is long enough, too")) == 401
        assert await status(bearer("user")) == 403
        assert await status(bearer("admin")) in (200, 202, 404, 422)


async def test_without_a_secret_the_api_says_how_to_get_one() -> None:
    async with gateway_async("http://127.0.0.1:9") as server, Downstream(server.url) as client:
        answer = await client.ask("GET", "/admin/stats")
        assert answer.status == 401
        assert "JWT_SECRET" in answer.json()["error"]["message"]


async def test_every_answer_is_as_the_document_says() -> None:
    async with FaultyUpstream(faults.chat()) as upstream, operated([upstream.url]) as gateway:
        assert await once(gateway.url) == "200"
        _, document = await gateway.call("GET", "/admin/openapi.json")
        assert len(document["paths"]) == 17
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                status, answer = await gateway.call(method.upper(), path.replace("{name}", "openai"))
                schema: dict[str, Any] = operation["responses"][str(status)]["content"]["application/json"]["schema"]
                jsonschema.validate(answer, {**schema, "components": document["components"]})


async def test_what_is_not_an_operation_is_refused() -> None:
    async with operated(["http://127.0.0.1:9"], workers=1) as gateway:
        assert (await gateway.call("GET", "/admin/nothing"))[0] == 404
        assert (await gateway.call("GET", "/admin/reload-config"))[0] == 405
        assert (await gateway.call("POST", "/admin/stats"))[0] == 405
        assert (await gateway.call("POST", "/admin/upstreams/nobody/drain"))[0] == 404


async def test_the_configuration_is_shown_without_its_secrets() -> None:
    provider = {"api_key": "env:THE_KEY", "headers": {"x-tenant-key": "env:THE_KEY"}}
    async with operated(
        ["http://127.0.0.1:9"], workers=1, extra=AUTH, provider=provider, env={"THE_KEY": KEY}
    ) as gateway:
        status, document = await gateway.call("GET", "/admin/config")
        assert status == 200
        assert document["config"]["providers"][0]["api_key"] == "***"
        assert document["config"]["jwt_secret"] == "***"
        set_by = document["set_by"]
        assert set_by["auth.jwt_secret"] == "environment: JWT_SECRET"
        assert set_by["gateway.workers"] == "gateway.toml"
        assert set_by["routes[0].path"] == "routes.toml"
        assert set_by["providers.openai.endpoints[0].url"] == "providers.toml"
        assert [name for name in document["files_and_variables"] if name.endswith("gateway.toml")]
        everything = repr(
            [await gateway.call("GET", path) for path in ("/admin/config", "/admin/routes", "/admin/stats")]
        )
        assert KEY not in everything
        assert SECRET not in everything
        assert KEY not in gateway.server.output


async def test_a_drained_upstream_gets_nothing_new_until_it_is_undrained() -> None:
    async with (
        FaultyUpstream(faults.chat()) as one,
        FaultyUpstream(faults.chat()) as two,
        operated([one.url, two.url], workers=2) as gateway,
    ):
        status, document = await gateway.call("POST", "/admin/upstreams/openai/0/drain")
        assert (status, document["upstreams"][0]["state"]) == (200, "drained")
        assert {await once(gateway.url) for _ in range(10)} == {"200"}
        assert (len(one.requests), len(two.requests)) == (0, 10)
        assert (await gateway.call("GET", "/admin/providers/health"))[1]["providers"][0]["status"] == "degraded"
        await gateway.call("POST", "/admin/upstreams/openai/drain")
        assert await once(gateway.url) == "503"
        assert (await gateway.call("GET", "/admin/providers/health"))[1]["providers"][0]["status"] == "down"
        await gateway.call("POST", "/admin/upstreams/openai/undrain")
        assert {await once(gateway.url) for _ in range(10)} == {"200"}
        assert len(one.requests) == 5


async def test_statistics_count_what_happens() -> None:
    gate = asyncio.Event()
    async with FaultyUpstream(model_server(gate)) as upstream, operated([upstream.url]) as gateway:
        for _ in range(5):
            await once(gateway.url)
        facts = await gateway.stats()
        assert facts["routes"]["/v1/*"] == {"requests": 5, "errors": 0, "tokens_in": 15, "tokens_out": 5}
        assert facts["requests"] >= 5
        assert [worker["worker"] for worker in facts["workers"]] == [0, 1]
        assert all(worker["rss_bytes"] > 1 << 20 for worker in facts["workers"])
        assert facts["requests_per_s"]["10s"] > 0


async def test_the_operators_commands_find_the_gateway_of_this_machine() -> None:
    async with operated(["http://127.0.0.1:9"]) as gateway:
        assert await once(gateway.url) == "502"
        status, printed = await gateway.command("status")
        assert status == 0
        assert [word for word in ("http://127.0.0.1:9", "ready", "/v1/*", "1 failed") if word not in printed] == []
        assert json.loads((await gateway.command("status", "--json"))[1])["workers"][1]["worker"] == 1
        gateway.configure(["http://127.0.0.1:9"], paths=("/v1/*", "/more/*"))
        assert await gateway.command("reload") == (0, "+ route /more/*\nreloaded\n")
        gateway.configure(["http://127.0.0.1:9"], extra="[gatewayy]")
        status, printed = await gateway.command("reload")
        assert status == 1
        assert "gatewayy: unknown table" in printed


async def test_the_operators_commands_reach_a_gateway_elsewhere_with_a_token() -> None:
    async with operated(["http://127.0.0.1:9"], workers=1, extra=AUTH) as gateway:
        token = bearer("admin")[1].removeprefix("Bearer ")
        assert (await gateway.command("status", "--url", gateway.url, "--token", token))[0] == 0
        status, printed = await gateway.command("status", "--url", gateway.url)
        assert (status, printed) == (1, "error: 401 a credential is required: a bearer token or an API key\n")


async def test_workers_are_held_to_cores_where_that_is_asked_for() -> None:
    async with operated(["http://127.0.0.1:9"], settings={"cpu_affinity": True}) as gateway:
        cores = sorted(os.sched_getaffinity(0))
        held = [sorted(os.sched_getaffinity(pid)) for pid in await gateway.pids()]
        assert held == [[cores[index % len(cores)]] for index in range(2)]
