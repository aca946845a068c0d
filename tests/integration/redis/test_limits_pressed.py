"""RELIABILITY L1: rates of requests and tokens and requests at once, over workers and hosts, under five times the load.

What was admitted is what reached the upstream, and the oracle computes from those times alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from pathlib import Path

import pytest
from integration.operated import Operated, operated
from integration.pressed import (
    NS,
    PROMPT_TOKENS,
    Passage,
    Press,
    excess,
    gateways,
    mean_at_once,
    most_at_once,
    one_bucket,
    one_table,
    rates,
    redis_at,
    token_load,
    windows,
)
from integration.redises import needs_redis, redis_server
from integration.sizes import long

pytestmark = [pytest.mark.integration, needs_redis]
LOOPS = ("uvloop",)

LOAD = 5
PER_MINUTE, BURST = 2400, 40
TOKENS_PER_MINUTE = 24_000
SLOTS, HOLD_S = 40, 1.0
LEDGER = 50_000
RULES = f"""
[rate_limiting]
queue_size = 0
# Refills a request an hour: what is left of it says to the unit what was consumed.
[[rate_limiting.rules]]
name = "ledger"
by = "global"
requests_per_day = 24
burst = {LEDGER}
{rates(PER_MINUTE, BURST, TOKENS_PER_MINUTE)}
[[rate_limiting.rules]]
name = "slots"
by = "global"
models = ["slots"]
concurrency = {SLOTS}
"""
# Nothing is refused: two rates of requests, tokens, requests at once.
MANY = """
[rate_limiting]
[[rate_limiting.rules]]
name = "all"
by = "global"
requests_per_minute = 1000000
requests_per_hour = 60000000
tokens_per_minute = 100000000
concurrency = 1000
"""


def spans(passages: list[Passage]) -> list[tuple[int, int]]:
    return [(passage.arrived_ns, passage.replied_ns) for passage in passages]


async def left_of_the_ledger(press: Press, url: str) -> int:
    """Return the remaining units of the ledger's limit before this request."""
    _, answer = await press.ask(url, "ledger")
    assert answer is not None
    return int(answer.header("x-ratelimit-remaining-requests") or -1) + 1


async def fallbacks(gateways: list[Operated]) -> float:
    """Decisions that Redis did not answer."""
    found = 0.0
    for gateway in gateways:
        for line in (await gateway.metrics()).splitlines():
            if line.startswith("budgateway_store_fallbacks_total"):
                found += float(line.split()[-1])
    return found


@pytest.mark.parametrize(
    ("seconds", "workers", "hosts"), [(5, 2, 2), long("PRESSED_S", 30, 4, 2), long("PRESSED_S", 30, 4, 1)]
)
async def test_gateways_admit_the_limits(tmp_path: Path, seconds: int, workers: int, hosts: int) -> None:
    """Two on one Redis, or one of several workers on its own."""
    async with contextlib.AsyncExitStack() as stack:
        press = await stack.enter_async_context(Press(HOLD_S))
        server = stack.enter_context(redis_server(tmp_path / "redis"))
        both = await stack.enter_async_context(
            gateways(press, workers, RULES + (redis_at(server.port, 2.0, 2) if hosts > 1 else ""), hosts)
        )
        urls = [gateway.url for gateway in both]
        await asyncio.gather(
            press.push(urls, "rate", LOAD * PER_MINUTE / 60, seconds),
            press.push(urls, "tokens", token_load(LOAD, TOKENS_PER_MINUTE, seconds), seconds),
            press.push(urls, "slots", LOAD * SLOTS / HOLD_S, seconds),
        )
        consumed = LEDGER - await left_of_the_ledger(press, urls[0])
        asked = sum(len(press.of(model)) for model in ("rate", "tokens", "slots"))
        admitted = sum(len(press.admitted(model)) for model in ("rate", "tokens", "slots"))
        alone = await fallbacks(both)
        await press.let_go()
    assert not press.failures
    assert not alone, "decisions that Redis did not make"
    rate, tokens, slots = (press.admitted(model) for model in ("rate", "tokens", "slots"))

    ideal = one_bucket(press.of("rate"), BURST, PER_MINUTE / 60)
    used = sum(passage.tokens for passage in tokens)
    ideal_tokens = one_bucket(
        press.of("tokens"), TOKENS_PER_MINUTE, TOKENS_PER_MINUTE / 60, 2 * PROMPT_TOKENS, tokens=True
    )
    over = excess(windows(rate), BURST, PER_MINUTE / 60)
    over_tokens = excess(windows(tokens, tokens=True), TOKENS_PER_MINUTE, TOKENS_PER_MINUTE / 60)
    most = most_at_once(spans(slots))
    full = min(p.arrived_ns for p in slots) + int(HOLD_S * NS)
    asked_last = max(p.sent_ns for p in press.of("slots"))
    mean = mean_at_once(spans(slots), full, asked_last)
    held = mean_at_once([(p.sent_ns, p.answered_ns) for p in slots], full, asked_last)
    ideal_held = mean_at_once(one_table(press.of("slots"), SLOTS), full, asked_last)
    print(
        f"asked {asked}, admitted {admitted}, consumed {consumed}; requests {len(rate)} of {ideal:.1f} ({over=:.2f}); "
        f"tokens {used} of {ideal_tokens:.0f} (over {over_tokens:.0f}); at once {most}, mean {mean:.2f}, "
        f"held {held:.2f} of {ideal_held:.2f}; {alone=}"
    )
    assert consumed == admitted, "what was refused has consumed nothing"
    assert len(rate) == pytest.approx(ideal, rel=0.01, abs=1)
    assert over <= 0
    assert used == pytest.approx(ideal_tokens, rel=0.01, abs=200)
    assert over_tokens <= 0
    assert most == SLOTS
    assert held >= 0.98 * ideal_held
    if seconds >= 30:
        assert mean >= 0.97 * SLOTS


async def calls(gateway: Operated) -> float:
    """Round trips to Redis so far."""
    await asyncio.sleep(0.6)  # gauges are brought up to date four times a second
    lines = (await gateway.metrics()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("budgateway_store_calls_total"))


@pytest.mark.parametrize("count", [200, long("ADDED", 3000)])
async def test_what_redis_adds(tmp_path: Path, count: int) -> None:
    """Three gateways in turn: limits of their own, limits in Redis, and a share of those in advance."""
    async with contextlib.AsyncExitStack() as stack:
        press = await stack.enter_async_context(Press())
        server = stack.enter_context(redis_server(tmp_path / "redis"))
        shared = MANY + redis_at(server.port, 2.0, 2)
        extras = {"segment": MANY, "exact": shared, "leased": shared + 'mode = "leased"\nnamespace = "leased"\n'}
        made = {
            name: await stack.enter_async_context(operated([press.upstream.url], workers=1, extra=extra))
            for name, extra in extras.items()
        }
        took: dict[str, list[int]] = {name: [] for name in made}
        for number in range(count + 20):
            for name, gateway in made.items():
                passage, _ = await press.ask(gateway.url, "any")
                if number >= 20:
                    took[name].append(passage.answered_ns - passage.sent_ns)
        before = await calls(made["exact"])
        for _ in range(10):
            await asyncio.gather(*(press.ask(made["exact"].url, "any") for _ in range(32)))
        trips = await calls(made["exact"]) - before
        await press.let_go()
    median_us = {name: statistics.median(values) / 1e3 for name, values in took.items()}
    print(f"median of {count}, us: {median_us}; 320 requests, 32 at once: {trips:.0f} round trips")
    assert {passage.status for passage in press.of("any")} == {200}
    # Decisions of a turn travel together, with what is settled and released: alone it would be two for each.
    assert trips < 320
