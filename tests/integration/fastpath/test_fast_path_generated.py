"""Generated gateways, each once with its fast path open and once with it closed: they must be told alike.

A configuration and ten requests follow from a seed. 200 seeds are fixed; some more are new each time, and a failure names its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.fastpath.test_fast_path_alike import (
    ANSWERS,
    BODIES,
    CHAT,
    HEADERS,
    JSON,
    MANY,
    Case,
    Pair,
    pair,
    request,
    said,
    same_books,
    without_times,
)
from integration.inside import Inside
from tokens import SECRET, own
from upstreams import faults

from budgateway.records import (
    Allowance,
    Auth,
    Canary,
    Hedge,
    LimitRule,
    Maintenance,
    ModelPrice,
    Permission,
    Retries,
    Secret,
    Tenant,
)

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

FIXED = 200
NEW = 50 if os.environ.get("CI") else 10
REQUESTS = 12
BATCH = 25  # seeds of one test
MODELS = ("demo", "demo", "mini", "mini", "org/large", "de-prefixed", "alias")

NEVER = 2**32  # seconds since the epoch
TOKENS = {
    "anna": own(sub="anna", roles=["all"], tenant="acme", exp=NEVER),
    "bob": own(sub="bob", roles=["mini"], exp=NEVER),
    "carl": own(sub="carl", roles=[], tenant="other", exp=NEVER),
    "late": own(sub="late", roles=["all"], exp=1),
}


@dataclass
class Generated:
    """A configuration, as `inside` takes it, and the requests that it is asked."""

    options: dict[str, Any] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)


def allowance(lot: random.Random) -> Allowance:
    """Limits that a run of ten requests may meet. Rates refill so slowly that both gateways have the same left."""
    kind = lot.choice((0, 0, 1, 1, 2, 3, 4, 4, 4))
    if kind == 0:
        return Allowance(requests_per_day=lot.choice((3, 12, 1000)), burst=lot.choice((3, 12)))
    if kind == 1:
        return Allowance(tokens_per_day=lot.choice((100, 5_000, 1_000_000)))
    if kind == 2:
        return Allowance(concurrency=lot.choice((1, 8)))
    if kind == 3:
        return Allowance(budget_usd=lot.choice((0.0001, 5.0)))
    return Allowance(requests_per_day=900, tokens_per_day=1_000_000)


def rules(lot: random.Random) -> tuple[LimitRule, ...]:
    """Up to three rules, by whatever they may count."""
    ways: tuple[tuple[str, ...], ...] = ((), ("user",), ("address",), ("tenant",), ("model",), ("user", "model"))
    return tuple(
        LimitRule(
            f"rule {number}",
            lot.choice(ways),  # type: ignore[arg-type]  # names of subjects
            allowance(lot),
            models=lot.choice(((), ("demo",), ("m*",))),
        )
        for number in range(lot.choice((0, 0, 1, 1, 2, 3)))
    )


def configuration(lot: random.Random) -> dict[str, Any]:
    """Settings that people switch on, by lot."""

    def maybe(chance: float, value: Any, otherwise: Any) -> Any:
        return value if lot.random() < chance else otherwise

    route: dict[str, Any] = {
        "auth_required": maybe(0.4, True, False),
        "max_body_bytes": maybe(0.1, 300, 10 << 20),
        "models": maybe(0.1, lot.choice((("demo", "m*"), ("*",))), ()),
        "headers": maybe(0.05, (("x-request-id", "given-*"),), ()),
        "rate_limit": maybe(0.04, 1, 0),
        "maintenance": maybe(0.03, Maintenance("closed"), None),
        "pin_by": maybe(0.15, lot.choice(("header:x-request-id", "user", "key")), ""),
        "canary": maybe(0.15, Canary("/other", 0.0, "x-a"), None),
        "replay_safe": maybe(0.2, True, False),
        "load_balancer": lot.choice(("round_robin", "least_connections", "power_of_two", "least_load")),
        "retries": Retries(
            max_attempts=lot.choice((1, 3)), hedge=maybe(0.04, Hedge(after_s=30.0), None), max_retry_after_s=0.0
        ),
    }
    provider: dict[str, Any] = {
        "aliases": maybe(0.3, (("alias", "demo"), ("mini", "org/mini")), ()),
        "strip_model_prefix": maybe(0.2, "de-", ""),
        "stream_usage": maybe(0.5, True, False),
        "hold_bytes": maybe(0.2, 0, 64 * 1024),
        "forward_headers": maybe(0.2, ("x-a",), ()),
        "api_key": maybe(0.3, Secret("upstream-key"), None),
        "headers": maybe(0.2, (("x-extra", Secret("one")),), ()),
        "models": maybe(0.1, ("demo", "mini"), ()),
    }
    grants = (Permission("all"), Permission("mini", models=("mini",), methods=("POST",)))
    tenants = maybe(0.3, (Tenant("acme", models=("demo", "m*")),), ())
    return {
        "route": route,
        "provider": provider,
        "upstream": {"max_in_flight": maybe(0.2, 4, 0)},
        "timeouts": maybe(0.2, {"first_byte_s": 20.0}, {}),
        "limit_rules": rules(lot),
        "prices": maybe(0.5, (ModelPrice("demo", 1.5, 6.0, 0.5), ModelPrice("*", 1.0, 1.0, 1.0)), ()),
        "disclose": maybe(0.8, True, False),
        "trusted_proxies": maybe(0.3, ("127.0.0.1/32",), ()),
        "jwt_secret": Secret(SECRET),
        "auth": Auth(grants=maybe(0.7, grants, ()), tenants=tenants),
    }


def who(lot: random.Random) -> list[tuple[str, str]]:
    """A credential, or none, in one of the headers that may hold one."""
    name = lot.choice(("anna", "anna", "anna", "bob", "carl", "late", ""))
    if not name:
        return []
    token = TOKENS[name]
    return lot.choice(
        ([("authorization", f"Bearer {token}")], [("authorization", f"Bearer {token}")], [("x-api-key", token)])
    )


def body(lot: random.Random) -> bytes:
    """A request's document."""
    if lot.random() < 0.2:
        return lot.choice(list(BODIES.values()))
    members: dict[str, Any] = {
        "model": lot.choice(MODELS),
        "messages": [{"role": "user", "content": "x" * lot.randrange(400)}],
    }
    if lot.random() < 0.2:
        members["stream"] = lot.choice((True, False))
    if lot.random() < 0.3:
        members["max_tokens"] = lot.choice((1, 50))
    if lot.random() < 0.2:
        members["user"] = lot.choice(("one", "two"))
    return json.dumps(members).encode()


def answer(lot: random.Random) -> tuple[bytes, ...]:
    """The upstream's answer, in one piece or in two."""
    if lot.random() < 0.8:
        whole = faults.chat_bytes("words " * lot.randrange(9))
    elif lot.random() < 0.6:
        whole = lot.choice(list(ANSWERS.values()))
    else:
        whole = lot.choice(
            (said(50, 400), said(50, 404), said(50, 429), faults.stream_bytes(), said(17_000), said(0x200, 500))
        )
    if lot.random() < 0.1:
        at = lot.randrange(1, len(whole))
        return (whole[:at], whole[at:])
    return (whole,)


def generated(seed: int) -> Generated:
    """The gateway and the requests of a seed. Requests repeat themselves, so that plans are cached, and then differ in one part."""
    lot = random.Random(seed)
    made = Generated(configuration(lot))
    head, text = [*MANY, *who(lot)], body(lot)
    for number in range(REQUESTS):
        if lot.random() < 0.2:
            head = [*lot.choice((MANY, *HEADERS.values())), *who(lot)]
            if lot.random() < 0.3:
                head.append(("x-forwarded-for", lot.choice(("203.0.113.7", "198.51.100.1, 127.0.0.1", "2001:db8::1"))))
            if lot.random() < 0.2:
                head.append(("connection", "close"))
            if lot.random() < 0.3:
                head.append(("x-a", lot.choice(("1", "caf\xe9"))))
            if not any(name.lower() == "content-type" for name, _ in head):
                head.append(JSON)
        if lot.random() < 0.25:
            text = body(lot)
        method, target = ("POST", CHAT) if lot.random() < 0.9 else (lot.choice(("PUT", "POST")), CHAT + "?a=b")
        made.cases.append(
            Case(f"seed {seed}, request {number}", (request(text, head, method, target),), answer(lot), behind=False)
        )
    return made


class Client:
    """A client that keeps its connection to one of the gateways for as long as that lives."""

    def __init__(self, gateway: Inside) -> None:
        self._gateway = gateway
        self._connection: Downstream | None = None

    async def tell(self, two: Pair, case: Case) -> tuple[bytes, list[bytes], bool]:
        """Return the bytes that the client and the upstream read, and whether the connection stays."""
        two.case = case
        if self._connection is not None and self._connection.is_closed:
            await self.close()
        if self._connection is None:
            self._connection = await Downstream(self._gateway.url).__aenter__()
        client = self._connection
        seen, read = len(two.upstream.requests), len(client.bytes_read)
        await client.send(case.pieces[0])
        async with asyncio.timeout(10):
            await client.answer()
        await self._gateway.at_rest()
        sent = [bytes(one.raw) for one in two.upstream.requests[seen:]]
        return bytes(client.bytes_read[read:]), sent, not client.is_closed

    async def close(self) -> None:
        """Close the connection that is open, if there is one."""
        if self._connection is not None:
            await self._connection.__aexit__(None, None, None)
            self._connection = None


async def run(seed: int, log: Path) -> int:
    """Ask both gateways of a seed: how many exchanges the fast path served."""
    made = generated(seed)
    log.mkdir()
    async with pair(log, **made.options) as two:
        clients = Client(two.open), Client(two.closed)
        try:
            for case in made.cases:
                opened, closed = [await client.tell(two, case) for client in clients]
                assert without_times(opened) == without_times(closed), case.name
        finally:
            for client in clients:
                await client.close()
        await same_books(two, log)
        return two.served


@pytest.mark.parametrize("first", range(0, FIXED, BATCH))
async def test_fixed_seeds_are_told_alike(first: int, tmp_path: Path) -> None:
    carried = [await run(seed, tmp_path / str(seed)) for seed in range(first, first + BATCH)]
    # What never takes the fast path proves nothing about it.
    assert sum(count > 0 for count in carried) >= BATCH // 4, carried


async def test_new_seeds_are_told_alike(tmp_path: Path) -> None:
    for seed in random.SystemRandom().sample(range(FIXED, 2**31), NEW):
        await run(seed, tmp_path / str(seed))
