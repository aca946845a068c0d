"""Cost of authentication and limits per exchange: one gateway with and without them, alternating in one process.

    python -m benchmarks.admission                  # CPU time, paired
    python -m benchmarks.admission --instructions   # under callgrind (valgrind)

The exchange is that of `micro/test_exchange_bench.py`: a request of 300 B and a response of 400 B through the compiled
protocols and the whole pipeline, without sockets. The limits' cost includes the headers that they add.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jwt

sys.path.insert(0, str(Path(__file__).parent / "micro"))

from test_exchange_bench import REQUEST, RESPONSE, Sink, settings

from benchmarks.paired import run
from budgateway import native
from budgateway.app.dataplane import DataPlane
from budgateway.records import Allowance, Auth, LimitRule, ModelPrice, Permission, Secret, Settings
from budgateway.server.connection_cy import protocols
from budgateway.transport.client_cy import ClientConnection

SECRET = "a secret of more than thirty-two bytes"
MANY = 600_000_000
GRANTS = (Permission("chat", routes=("chat",), methods=("POST",)),)
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
        self.client: Any = protocols(self.plane.server_state)()
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


if __name__ == "__main__":
    run("benchmarks.admission", __doc__, {name: partial(Driven, chosen) for name, chosen in setups().items()})
