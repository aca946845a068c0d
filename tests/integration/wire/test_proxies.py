"""`trusted_proxies` through a gateway: limits by address, access lines, and who passes for this machine."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from downstream import Answer, Downstream
from integration.inside import inside, upstream_of
from integration.operated import operated
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.process.embedded import Gateway
from budgateway.records import Allowance, LimitRule, LimitSettings, Provider, Route, Settings

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

RULES = (LimitRule(name="addresses", by=("address",), allowance=Allowance(requests_per_hour=6, burst=2)),)


async def ask(url: str, *forwarded: str, method: str = "POST", path: str = "/v1/chat/completions") -> Answer:
    body = json.dumps({"model": "demo", "messages": []}).encode() if method == "POST" else None
    headers = [("Content-Type", "application/json")] if body else []
    async with Downstream(url) as client:
        return await client.ask(method, path, body, [*headers, *(("X-Forwarded-For", value) for value in forwarded)])


async def statuses(url: str, *forwarded: str) -> list[int]:
    return [(await ask(url, *forwarded)).status for _ in range(3)]


async def test_an_address_is_what_a_trusted_proxy_says(tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream:
        options = {"limit_rules": RULES, "trusted_proxies": ("127.0.0.0/8",)}
        async with inside(upstream.url, tmp_path, **options) as gateway:
            assert await statuses(gateway.url, "6.6.6.6") == [200, 200, 429]
            # Another client; what it writes itself makes it no third.
            assert await statuses(gateway.url, "1.2.3.4, 7.7.7.7") == [200, 200, 429]
            assert await statuses(gateway.url, "5.5.5.5, 7.7.7.7") == [429] * 3
            assert await statuses(gateway.url) == [200, 200, 429]
            lines = await gateway.lines(12)
    assert [line["client"] for line in lines[::3]] == ["6.6.6.6", "7.7.7.7", "7.7.7.7", "127.0.0.1"]
    assert all(request.header("x-forwarded-for") is None for request in upstream.requests)


@pytest.mark.parametrize(("prefix", "sees"), [(64, [200, 200, 429]), (128, [200, 200, 200])])
async def test_clients_of_ipv6_are_counted_by_network(tmp_path: Path, prefix: int, sees: list[int]) -> None:
    async with FaultyUpstream(faults.chat()) as upstream:
        options = {
            "limit_rules": (*RULES, LimitRule(name="users", by=("user",), allowance=Allowance(requests_per_hour=6, burst=2))),
            "trusted_proxies": ("127.0.0.1",), "limits": LimitSettings(ipv6_prefix=prefix),
        }  # fmt: skip
        async with inside(upstream.url, tmp_path, **options) as gateway:
            addresses = [f"2001:db8:1:2::{number}" for number in range(1, 4)]
            assert [(await ask(gateway.url, address)).status for address in addresses] == sees
            assert (await ask(gateway.url, "2001:db8:1:3::1")).status == 200
            lines = await gateway.lines(4)
    # A line says who it was, and not where that is.
    assert [line["client"] for line in lines] == [*addresses, "2001:db8:1:3::1"]


async def test_a_client_of_ipv4_is_one_on_a_socket_for_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budgateway.process.embedded.resident", lambda pid: 0)  # reads a file
    async with FaultyUpstream(faults.chat()) as upstream:
        log = tmp_path / "access.log"
        settings = Settings(
            host="::", port=0, metrics_port=0, access_log=str(log), drain_s=1.0, limit_rules=RULES,
            trusted_proxies=("127.0.0.1",),
            providers=(Provider("p", "openai", (upstream_of(upstream.url),)),),
            routes=(Route("r", "/v1/*", "p", auth_required=False),),
        )  # fmt: skip
        async with Gateway(settings) as gateway:
            url = f"http://127.0.0.1:{urlsplit(gateway.url).port}"
            # This machine is this machine, and a proxy that is trusted is trusted.
            assert (await ask(url, method="GET", path="/metrics")).status == 200
            assert await statuses(url, "::ffff:6.6.6.6") == [200, 200, 429]
            assert await statuses(url, "6.6.6.6") == [429] * 3
            assert await statuses(url) == [200, 200, 429]
        clients = [json.loads(line)["client"] for line in log.read_text().splitlines()]
    assert set(clients) == {"6.6.6.6", "127.0.0.1"}


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",)])
async def test_of_others_nothing_is_believed(tmp_path: Path, trusted: tuple[str, ...]) -> None:
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, limit_rules=RULES, trusted_proxies=trusted) as gateway:
            assert [(await ask(gateway.url, f"6.6.6.{number}")).status for number in range(3)] == [200, 200, 429]
            assert {line["client"] for line in await gateway.lines(3)} == {"127.0.0.1"}


async def test_nobody_is_of_this_machine_by_a_header_and_a_reload_changes_whom_to_believe() -> None:
    async with FaultyUpstream(faults.chat()) as upstream:
        async with operated([upstream.url], workers=2, settings={"trusted_proxies": ["127.0.0.1"]}) as gateway:
            for forwarded, status in (((), 200), (("127.0.0.1",), 401), (("6.6.6.6",), 401), (("::1",), 401)):
                assert (await ask(gateway.url, *forwarded, method="GET", path="/metrics")).status == status
            gateway.configure([upstream.url], settings={"trusted_proxies": []})
            assert (await gateway.call("POST", "/admin/reload-config"))[0] == 200
            # A proxy on this machine that nobody told us of does not open them either.
            assert (await ask(gateway.url, "6.6.6.6", method="GET", path="/metrics")).status == 401
            assert (await ask(gateway.url, method="GET", path="/metrics")).status == 200
