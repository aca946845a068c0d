"""What it costs an exchange that somebody is known and counted: the same gateway with and without, in turn, in one process.

    python -m benchmarks.admission                  # CPU time, paired
    python -m benchmarks.admission --instructions   # under callgrind (valgrind)

The exchange is that of `micro/test_exchange_bench.py`: 300 B asked, 400 B answered, through the compiled protocols and the
whole pipeline, without sockets. Headers that are sent on account of limits count as theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt

sys.path.insert(0, str(Path(__file__).parent / "micro"))

from test_exchange_bench import REQUEST, RESPONSE, Sink, settings

from budgateway import native
from budgateway.records import Allowance, Auth, Grant, LimitRule, ModelPrice, Secret, Settings
from budgateway.runtime import DataPlane
from budgateway.server.connection_cy import protocols
from budgateway.transport.client_cy import ClientConnection

SECRET = "a secret of more than thirty-two bytes"
MANY = 600_000_000
GRANTS = (Grant("chat", routes=("chat",), methods=("POST",)),)
RULES = (
    LimitRule(
        name="people", by=("user",), allowance=Allowance(requests_per_minute=MANY, tokens_per_minute=MANY, concurrency=9)
    ),
    LimitRule(name="tenants", by=("tenant",), allowance=Allowance(requests_per_minute=MANY)),
)  # fmt: skip
BUDGET = LimitRule(name="money", by=("tenant", "model"), allowance=Allowance(budget_usd=1e6, budget_period="month"))
PRICES = (ModelPrice("*", input=1.0, output=1.0, cached=1.0),)


def setups() -> dict[str, Settings]:
    """By name, what is compared; the first is what the others are more than."""
    bare = replace(settings(), rate_limit=None, routes=(replace(settings().routes[0], rate_limit=0, rate_burst=0),))
    who = {"jwt_secret": Secret(SECRET), "auth": Auth(grants=GRANTS)}
    known = replace(bare, routes=(replace(bare.routes[0], auth_required=True),), **who)
    return {
        "neither": bare,
        "auth": known,
        "four limits": replace(bare, limit_rules=RULES),
        "auth and four limits": replace(known, limit_rules=RULES),
        "auth, four limits and a budget": replace(known, limit_rules=(*RULES, BUDGET), prices=PRICES),
    }


class Driven:
    """A data plane with both its ends in hand."""

    def __init__(self, settings: Settings) -> None:
        now = int(time.time())
        token = jwt.encode({"sub": "anna", "tenant": "acme", "roles": ["chat"], "iat": now, "exp": now + 3600}, SECRET)
        # Everybody sends a credential: reading the head costs all the same.
        self.request = REQUEST.replace(b"user-agent", b"authorization: Bearer %b\r\nuser-agent" % token.encode(), 1)
        self.plane = DataPlane(settings, native.Segment(1), 0, "/nowhere")
        self.sink = Sink()
        self.client: Any = protocols(self.plane.door)()
        self.client.connection_made(self.sink)
        pool = self.plane.snapshot.providers["vllm"][0].pool
        self.upstream: Any = ClientConnection(pool, self.plane.relay)
        self.upstream.connection_made(Sink())
        self.upstream.idle_since_ns = time.monotonic_ns()
        pool.put(self.upstream)

    def exchanges(self, count: int) -> float:
        """Microseconds of CPU that one took."""
        request, asked, answered = self.request, self.client.data_received, self.upstream.data_received
        before, began = self.sink.writes, time.process_time_ns()
        for _ in range(count):
            asked(request)
            answered(RESPONSE)
        took = time.process_time_ns() - began
        assert self.sink.writes == before + count
        if self.plane._access is not None:
            self.plane._access.flush()
        return took / count / 1e3


async def paired(rounds: int, count: int) -> dict[str, list[float]]:
    """By set-up, what an exchange took in each round."""
    async with AsyncExitStack() as stack:
        driven = {}
        for name, chosen in setups().items():
            driven[name] = Driven(chosen)
            stack.push_async_callback(driven[name].plane.close)
            driven[name].exchanges(count)
        taken: dict[str, list[float]] = {name: [] for name in driven}
        for number in range(rounds):
            # Each second round backwards: what drifts, drifts for all.
            for name in list(driven) if number % 2 else reversed(driven):
                taken[name].append(driven[name].exchanges(count))
        return taken


async def alone(name: str, count: int) -> None:
    """What callgrind looks at."""
    one = Driven(setups()[name])
    one.exchanges(200)
    one.exchanges(count)
    await one.plane.close()


def instructions(name: str, count: int = 2000) -> float:
    """Instructions of one exchange: a long run less a short one."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, count + 1):
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
            command += [sys.executable, "-m", "benchmarks.admission", "--alone", name, "--count", str(size)]
            said = subprocess.run(
                command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "0"}
            ).stderr
            collected = re.search(r"Collected : (\d+)", said)
            assert collected is not None, said
            found.append(int(collected[1]))
    return (found[1] - found[0]) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--count", type=int, default=1000, help="exchanges a round")
    parser.add_argument("--instructions", action="store_true", help="count instead of timing")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        asyncio.run(alone(given.alone, given.count))
        return
    if given.instructions:
        counts = {name: instructions(name) for name in setups()}
        first = counts["neither"]
        for name, count in counts.items():
            print(f"{name:32} {count:9,.0f} instructions {count - first:+9,.0f}")
        return
    took = asyncio.run(paired(given.rounds, given.count))
    first_took = took["neither"]
    print(f"{given.rounds} rounds of {given.count} exchanges each, CPU time of the process, microseconds")
    for name, values in took.items():
        more = sorted(value - bare for value, bare in zip(values, first_took))
        low, high = more[len(more) // 4], more[len(more) * 3 // 4]
        print(
            f"{name:32} {statistics.median(values):6.2f}   {statistics.median(more):+5.2f} (half of the rounds: {low:+.2f} to {high:+.2f})"
        )


if __name__ == "__main__":
    main()
