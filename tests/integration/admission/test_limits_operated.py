"""Limits of a gateway under operation: rules by tenant, role and model, what `/admin/usage` says, what a restart keeps."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream
from integration.inside import inside
from integration.operated import CHAT, JSON, Operated, operated
from tokens import own
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.records import Allowance, LimitRule, LimitSettings, ModelPrice

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

PRICES = '[prices]\nknown = false\n[prices.models]\n"*" = { input = 0.0, output = 1000.0 }\n'
RULES = """
[rate_limiting]
[[rate_limiting.rules]]
name = "per tenant"
by = "tenant"
requests_per_hour = 6
burst = 4
[[rate_limiting.rules]]
name = "interns"
by = "user"
roles = ["intern"]
requests_per_hour = 6
burst = 2
[[rate_limiting.rules]]
name = "big models"
by = ["tenant", "model"]
models = ["big-*"]
tenants = ["acme", "initech"]
requests_per_hour = 6
burst = 1
"""
BUDGET = """
[rate_limiting]
state_file = "STATE"
[[rate_limiting.rules]]
name = "money"
by = "user"
budget_usd = 0.003
[[rate_limiting.rules]]
name = "hourly"
by = "tenant"
requests_per_hour = 6
burst = 3
"""


async def ask(url: str, model: str = "demo", **who: Any) -> Answer:
    """A small request of somebody, on a connection of its own."""
    headers = [*JSON, *([("authorization", f"Bearer {own(**who)}")] if who else [])]
    async with Downstream(url) as client:
        body = json.dumps({"model": model, "messages": [], "max_tokens": 1}).encode()
        return await client.ask("POST", CHAT, body, headers)


async def statuses(url: str, count: int, model: str = "demo", **who: Any) -> list[int]:
    return [(await ask(url, model, **who)).status for _ in range(count)]


async def test_rules_choose_by_tenant_role_and_model_over_all_workers() -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        operated([upstream.url], workers=3, extra=RULES, route={"auth_required": True}) as gateway,
    ):
        # A tenant's limit is its members' together; another tenant has its own.
        assert await statuses(gateway.url, 3, sub="anna", tenant="acme") == [200] * 3
        assert await statuses(gateway.url, 3, sub="bob", tenant="acme") == [200, 429, 429]
        assert await statuses(gateway.url, 2, sub="anna", tenant="other") == [200] * 2
        # Of interns each has two; who is none, or has no tenant, is not counted.
        assert await statuses(gateway.url, 3, sub="ivy", roles=["intern"]) == [200, 200, 429]
        assert await statuses(gateway.url, 3, sub="ian", roles=["reader", "intern"]) == [200, 200, 429]
        assert await statuses(gateway.url, 9, sub="rita", roles=["reader"]) == [200] * 9
        # By tenant and model, of these models and tenants alone; what was refused has consumed nothing of the tenant's.
        first, second = [await ask(gateway.url, "big-1", sub="cleo", tenant="initech") for _ in range(2)]
        assert (first.status, second.status) == (200, 429)
        assert "limit 'big models'" in second.json()["error"]["message"]
        assert await statuses(gateway.url, 2, "big-2", sub="cleo", tenant="initech") == [200, 429]
        assert await statuses(gateway.url, 3, "small", sub="cleo", tenant="initech") == [200, 200, 429]
        assert await statuses(gateway.url, 3, "big-1", sub="dave", tenant="umbrella") == [200] * 3


async def usage(gateway: Operated, query: str = "") -> dict[str, Any]:
    status, document = await gateway.call("GET", f"/admin/usage{query}")
    assert status == 200
    found: dict[str, Any] = document
    return found


async def test_usage_of_all_workers_is_told_by_principal_model_and_route() -> None:
    route = {"auth_required": True}
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        operated([upstream.url], workers=3, extra=PRICES, route=route) as gateway,
    ):
        for count, who in ((5, {"sub": "anna", "tenant": "acme"}), (2, {"sub": "bob"})):
            assert await statuses(gateway.url, count, **who) == [200] * count
        async with asyncio.timeout(5):
            # The gateway's own paths are routes, too.
            while (total := (await usage(gateway, "?route=/v1/*"))["total"])["requests"] < 7:
                await asyncio.sleep(0.01)
        # Each read 3 tokens and wrote 1; that one cost a tenth of a cent.
        assert (total["tokens_in"], total["tokens_out"], total["cost_usd"]) == (21, 7, 0.007)
        rows = {row["principal"]: row for row in (await usage(gateway, "?by=principal&route=/v1/*"))["usage"]}
        assert {name.rpartition(":")[2]: row["requests"] for name, row in rows.items()} == {"anna": 5, "bob": 2}
        (row,) = (await usage(gateway, "?by=tenant&tenant=acme"))["usage"]
        assert (row["tenant"], row["requests"], row["cost_usd"], row["estimated"]) == ("acme", 5, 0.005, 0)
        rows = {row["route"]: row["requests"] for row in (await usage(gateway, "?by=route"))["usage"]}
        assert rows["/v1/*"] == 7
        # On the main port it takes the admin action `read`.
        async with Downstream(gateway.url) as client:
            assert (await client.ask("GET", "/admin/usage")).status == 401
            anna = [("authorization", f"Bearer {own(sub='anna')}")]
            assert (await client.ask("GET", "/admin/usage", headers=anna)).status == 403
            admin = [("authorization", f"Bearer {own(sub='root', roles=['admin'])}")]
            assert (await client.ask("GET", "/admin/usage", headers=admin)).json()["total"]["cost_usd"] == 0.007


async def spent_up(url: str, sub: str) -> list[int]:
    """Ask until the budget is used up: it is good for three answers."""
    return await statuses(url, 5, sub=sub, tenant=sub)


async def test_what_was_used_outlives_a_restart_of_the_gateway(tmp_path: Path) -> None:
    state = tmp_path / "limits.state"
    options: dict[str, Any] = {"extra": BUDGET.replace("STATE", str(state)) + PRICES, "route": {"auth_required": True}}
    async with FaultyUpstream(faults.chat()) as upstream:
        async with operated([upstream.url], **options) as gateway:
            first = await spent_up(gateway.url, "anna")
            assert first == [200, 200, 200, 429, 429]
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
        assert state.stat().st_mode & 0o777 == 0o600
        async with operated([upstream.url], **options) as gateway:
            assert await spent_up(gateway.url, "anna") == [429] * 5
            assert await spent_up(gateway.url, "bob") == first
        state.unlink()
        async with operated([upstream.url], **options) as gateway:
            assert await spent_up(gateway.url, "anna") == first


async def test_a_reload_moves_the_state_file(tmp_path: Path) -> None:
    old, new = tmp_path / "old.state", tmp_path / "new.state"
    options: dict[str, Any] = {"route": {"auth_required": True}}
    async with FaultyUpstream(faults.chat()) as upstream:
        async with operated([upstream.url], extra=BUDGET.replace("STATE", str(old)) + PRICES, **options) as gateway:
            assert await statuses(gateway.url, 3, sub="anna", tenant="a") == [200] * 3
            gateway.configure([upstream.url], settings={}, extra=BUDGET.replace("STATE", str(new)) + PRICES)
            assert (await gateway.call("POST", "/admin/reload-config"))[0] == 200
            assert await statuses(gateway.url, 1, sub="anna", tenant="a") == [429]
        assert new.exists()
        async with operated([upstream.url], extra=BUDGET.replace("STATE", str(new)) + PRICES, **options) as gateway:
            assert await statuses(gateway.url, 1, sub="anna", tenant="a") == [429]


async def test_a_gateway_inside_a_program_keeps_them_too(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "limit_rules": (LimitRule(name="money", by=("user",), allowance=Allowance(budget_usd=0.002)),),
        "limits": LimitSettings(state_file=str(tmp_path / "limits.state")),
        "prices": (ModelPrice("*", input=0.0, output=1000.0, cached=0.0),),
    }
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, **options) as gateway:
            assert await statuses(gateway.url, 3) == [200, 200, 429]
        async with inside(upstream.url, tmp_path, **options) as gateway:
            assert await statuses(gateway.url, 1) == [429]
