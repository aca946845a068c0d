"""API keys in a running gateway: made by the command line and by the admin API, used at once, gone at once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream
from integration.operated import SECRET, Operated, operated
from tokens import own
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration

ROLES = """
[auth]
jwt_secret = "env:JWT_SECRET"
keys_file = "keys.json"
[[auth.roles]]
name = "chat"
routes = ["/v1/*"]
models = ["demo", "gpt-*"]
[[auth.roles]]
name = "auditor"
routes = []
admin = ["read"]
"""
# From when these are imported to when they run is as long as the suite takes.
ADMIN = ("authorization", f"Bearer {own(SECRET, sub='op', roles=['admin'], exp=2**32)}")
CHAT = "/v1/chat/completions"


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat()) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: FaultyUpstream) -> AsyncIterator[Operated]:
    async with operated([upstream.url], extra=ROLES, route={"auth_required": True}, workers=2) as gateway:
        yield gateway


async def used(url: str, secret: str, header: str = "x-api-key", model: str = "demo") -> int:
    """The status of a request with a key, on a connection of its own: whichever worker gets it."""
    async with Downstream(url) as client:
        body = json.dumps({"model": model, "messages": []}).encode()
        value = f"Bearer {secret}" if header == "authorization" else secret
        return (await client.ask("POST", CHAT, body, [(header, value), ("content-type", "application/json")])).status


async def everywhere(url: str, secret: str, status: int) -> None:
    """Wait until no worker says anything else."""
    deadline = asyncio.get_running_loop().time() + 20
    while {await used(url, secret) for _ in range(8)} != {status}:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)


async def admin(url: str, method: str, path: str, document: object = None, header: tuple[str, str] = ADMIN) -> Answer:
    async with Downstream(url) as client:
        body = None if document is None else json.dumps(document).encode()
        return await client.ask(method, f"/admin/keys{path}", body, [header, ("content-type", "application/json")])


async def test_a_key_lives_from_its_making_to_its_end(gateway: Operated, upstream: FaultyUpstream) -> None:
    made = await admin(gateway.url, "POST", "", {"name": "build", "roles": ["chat"], "note": "ci"})
    assert made.status == 201
    secret = made.json()["secret"]
    # The workers were told before the answer was given.
    for header in ("x-api-key", "x-goog-api-key", "authorization"):
        assert {await used(gateway.url, secret, header) for _ in range(6)} == {200}
    assert await used(gateway.url, secret, model="o3") == 403
    assert await used(gateway.url, secret[:-1] + ("a" if secret[-1] != "a" else "b")) == 401

    listed = await admin(gateway.url, "GET", "")
    assert [key["name"] for key in listed.json()["keys"]] == ["build"]
    assert (await admin(gateway.url, "GET", "/build")).json()["start"] == secret[:8]
    for answer in (listed, await admin(gateway.url, "GET", "/build")):
        assert secret[8:] not in answer.body.decode()

    rotated = await admin(gateway.url, "POST", "/build/rotate", {"grace_s": 3600})
    second = rotated.json()["secret"]
    assert {await used(gateway.url, key) for key in (secret, second)} == {200}
    third = (await admin(gateway.url, "POST", "/build/rotate")).json()["secret"]
    assert [await used(gateway.url, key) for key in (secret, second, third)] == [401, 401, 200]

    assert (await admin(gateway.url, "POST", "/build/disable")).json()["state"] == "disabled"
    assert {await used(gateway.url, third) for _ in range(6)} == {401}
    assert (await admin(gateway.url, "POST", "/build/enable")).status == 200
    assert {await used(gateway.url, third) for _ in range(6)} == {200}
    assert (await admin(gateway.url, "PATCH", "/build", {"roles": []})).status == 200
    assert await used(gateway.url, third) == 403
    assert (await admin(gateway.url, "DELETE", "/build")).status == 200
    assert {await used(gateway.url, third) for _ in range(6)} == {401}
    assert (await admin(gateway.url, "GET", "/build")).status == 404

    sent = b"".join(bytes(connection.received) for connection in upstream.connections)
    for key in (secret, second, third):
        assert key.encode() not in sent
        assert key[8:] not in gateway.server.output


async def test_the_command_line_and_the_gateway_share_a_file(gateway: Operated) -> None:
    status, printed = await gateway.command("keys", "create", "cli", "--role", "chat", "-c", str(gateway.folder))
    assert status == 0
    secret = next(line for line in printed.splitlines() if line.startswith("bg-"))
    await everywhere(gateway.url, secret, 200)
    assert (await gateway.command("keys", "disable", "cli", "-c", str(gateway.folder)))[0] == 0
    await everywhere(gateway.url, secret, 401)
    # A file that cannot be read changes nothing, and is said once.
    assert (await gateway.command("keys", "enable", "cli", "-c", str(gateway.folder)))[0] == 0
    await everywhere(gateway.url, secret, 200)
    file = gateway.folder / "keys.json"
    good = file.read_bytes()
    file.write_bytes(b"{")
    async with asyncio.timeout(20):
        while "API keys cannot be read" not in gateway.server.output:
            await asyncio.sleep(0.05)
    assert await used(gateway.url, secret) == 200
    replacement = file.with_name("new.json")
    replacement.write_bytes(good)
    os.replace(replacement, file)
    await gateway.call("POST", "/admin/reload-config")
    assert await used(gateway.url, secret) == 200


async def test_a_new_worker_knows_the_keys(gateway: Operated) -> None:
    secret = (await admin(gateway.url, "POST", "", {"name": "k", "roles": ["chat"]})).json()["secret"]
    for pid in await gateway.pids():
        os.kill(pid, 9)
    await gateway.until(lambda stats: sum(worker["restarts"] for worker in stats["workers"]) == 2)
    await gateway.until(lambda stats: all(worker["state"] == "ready" for worker in stats["workers"]))
    assert {await used(gateway.url, secret) for _ in range(6)} == {200}


WRONG = [
    ("POST", "", {}, 400), ("POST", "", {"name": "a b"}, 400), ("POST", "", {"name": "x", "rolez": []}, 400),
    ("POST", "", [], 400), ("PUT", "", {}, 405), ("GET", "/nobody", None, 404), ("POST", "/nobody", {}, 405),
    ("POST", "/nobody/rotate", {}, 404), ("POST", "/nobody/explode", {}, 404), ("GET", "/nobody/rotate", None, 405),
    ("POST", "/nobody/rotate", {"grace_s": "x"}, 400), ("POST", "/nobody/disable", {"x": 1}, 400),
    ("DELETE", "/no%2fsuch", None, 400), ("DELETE", "/%2e%2e%2fetc", None, 400),
]  # fmt: skip


async def test_a_wrong_request_is_told_so() -> None:
    async with operated(["http://127.0.0.1:9"], extra=ROLES, workers=1) as gateway:
        for method, path, document, status in WRONG:
            assert (await admin(gateway.url, method, path, document)).status == status, (method, path, document)


async def test_keys_are_for_who_has_the_action(gateway: Operated) -> None:
    for roles in ([], ["chat"], ["auditor"]):
        other = ("authorization", f"Bearer {own(SECRET, roles=roles)}")
        assert (await admin(gateway.url, "GET", "", header=other)).status == 403
        assert (await admin(gateway.url, "POST", "", {"name": "x"}, header=other)).status == 403
    assert (await admin(gateway.url, "GET", "", header=("x-other", "x"))).status == 401


async def test_the_action_keys_gives_nothing_that_its_holder_has_not(
    gateway: Operated, upstream: FaultyUpstream
) -> None:
    extra = ROLES + '[[auth.roles]]\nname = "maker"\nroutes = ["/v1/*"]\nadmin = ["keys"]\n'
    gateway.configure([upstream.url], extra=extra, route={"auth_required": True})
    assert (await gateway.call("POST", "/admin/reload-config"))[0] == 200
    root = (await admin(gateway.url, "POST", "", {"name": "root", "roles": ["admin"]})).json()
    maker = {
        "name": "m",
        "roles": ["maker"],
        "models": ["gpt-*"],
        "expires": "1d",
        "limits": {"requests_per_minute": 6000},
    }
    holder = ("x-api-key", (await admin(gateway.url, "POST", "", maker)).json()["secret"])
    mine = await admin(gateway.url, "POST", "", {"name": "mine", "roles": ["maker"]}, holder)
    assert mine.status == 201
    shown = mine.json()
    assert (shown["models"], shown["limits"]) == (["gpt-*"], {"requests_per_minute": 6000})
    assert shown["expires"] == (await admin(gateway.url, "GET", "/m")).json()["expires"]
    for method, path, document in (
        ("POST", "", {"name": "x", "roles": ["admin"]}), ("POST", "", {"name": "x", "models": ["*"]}),
        ("POST", "", {"name": "x", "expires": "2d"}), ("POST", "", {"name": "x", "tenant": "acme"}),
        ("PATCH", "/mine", {"roles": ["maker", "chat"]}), ("PATCH", "/m", {"limits": {}}), ("PATCH", "/m", {"expires": ""}),
        ("POST", "/root/rotate", {}), ("POST", "/root/enable", {}), ("PATCH", "/root", {"note": "x"}),
    ):  # fmt: skip
        answer = await admin(gateway.url, method, path, document, holder)
        assert (answer.status, answer.json()["error"]["code"]) == (403, "forbidden"), (method, path, document)
    assert {await used(gateway.url, root["secret"]) for _ in range(4)} == {200}
    # To take is no giving.
    assert (await admin(gateway.url, "POST", "/root/disable", {}, holder)).status == 200
    assert (await admin(gateway.url, "POST", "/root/enable", {}, holder)).status == 403
    # And who has the admin server's socket, and not a credential, is this machine's operator.
    assert (await gateway.command("keys", "enable", "root", "-c", str(gateway.folder)))[0] == 0


async def test_the_command_line_reaches_a_gateway_elsewhere(gateway: Operated) -> None:
    where = ("--url", gateway.url, "--token", ADMIN[1].removeprefix("Bearer "))

    async def keys(*words: str) -> Any:
        status, printed = await gateway.command("keys", *words, *where, "--json")
        assert status == 0, printed
        return json.loads(printed)

    made = await keys("create", "far", "--role", "chat", "--rpm", "60000", "--expires", "1d", "--budget", "2.5")
    assert made["limits"] == {"requests_per_minute": 60000, "budget_usd": 2.5}
    assert await used(gateway.url, made["secret"]) == 200
    assert [key["name"] for key in await keys("list")] == ["far"]
    assert (await keys("rotate", "far", "--grace", "60"))["secret"] != made["secret"]
    assert (await keys("update", "far", "--model", "gpt-*"))["models"] == ["gpt-*"]
    assert await used(gateway.url, made["secret"]) == 403
    assert (await keys("disable", "far"))["state"] == "disabled"
    assert (await keys("enable", "far"))["state"] == "active"
    assert (await keys("show", "far"))["name"] == "far"
    await keys("delete", "far")
    status, printed = await gateway.command("keys", "show", "far", *where)
    assert (status, "no key is called 'far'" in printed) == (1, True)


async def test_without_a_place_for_keys_it_says_how_to_make_one() -> None:
    async with operated(["http://127.0.0.1:9"], extra='[auth]\njwt_secret = "env:JWT_SECRET"\n', workers=1) as gateway:
        answer = await admin(gateway.url, "POST", "", {"name": "k"})
        assert answer.status == 409
        assert "keys_file" in answer.json()["error"]["message"]


async def test_a_file_that_is_no_book_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    import sys

    from integration.gateways import write_configuration
    from ports import free_port

    write_configuration(tmp_path, free_port(), ["http://127.0.0.1:9"], "openai", {}, {}, {}, ("/v1/*",), ROLES)
    (tmp_path / "keys.json").write_text("{}")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "budgateway", "serve", "-c", str(tmp_path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, "JWT_SECRET": SECRET},
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"keys.json" in output
