"""Gateways pressed with more than their limits: what was admitted is read off the upstream, and judged by an oracle."""

from __future__ import annotations

import asyncio
import json
import statistics
from bisect import bisect
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate, count
from time import monotonic_ns
from typing import Any, Self

from downstream import Answer, Downstream
from integration.operated import Operated, operated
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received

CHAT = "/v1/chat/completions"
PROMPT_TOKENS = 100  # what a gateway takes 400 bytes for
BODY_BYTES = 4 * PROMPT_TOKENS
NS = 1_000_000_000


@dataclass(slots=True)
class Passage:
    """One request on its way. 0: not there yet, or never. `arrived_ns` and `replied_ns` are the upstream's."""

    url: str
    model: str
    sent_ns: int
    arrived_ns: int = 0
    replied_ns: int = 0
    answered_ns: int = 0
    status: int = 0
    tokens: int = 0

    @property
    def is_admitted(self) -> bool:
        return self.arrived_ns > 0


class Press:
    """An upstream that notes what reaches it, and clients that send at a rate, whatever the answers take."""

    def __init__(self, hold_s: float = 0.0) -> None:
        """`hold_s`: how long the upstream keeps a request of the model `slots`."""
        self.passages: dict[str, Passage] = {}
        self._hold_s = hold_s
        self._numbers = count(1)
        self._idle: dict[str, list[Downstream]] = {}
        self._open: list[Downstream] = []
        self.failures: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self.upstream = FaultyUpstream(self._answer)
        await self.upstream.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.let_go()
        await self.upstream.close()
        if error == (None, None, None):
            assert not self.upstream.violations, self.upstream.violations

    async def let_go(self) -> None:
        """Close the clients' connections."""
        for client in self._open:
            await client.__aexit__(None, None, None)
        self._open.clear()
        self._idle.clear()

    async def _answer(self, peer: Peer, request: Received) -> None:
        passage = self.passages[request.header("x-request-id") or ""]
        passage.arrived_ns = monotonic_ns()
        if passage.model == "slots":
            await asyncio.sleep(self._hold_s)
        # What was reserved is the most; most requests use less.
        used = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": passage.tokens - PROMPT_TOKENS}
        passage.replied_ns = monotonic_ns()
        await peer.send(faults.json_bytes({"object": "chat.completion", "choices": [], "usage": used}))

    async def ask(self, url: str, model: str, max_tokens: int = 100) -> tuple[Passage, Answer | None]:
        """One request of a hundred prompt tokens; None when the connection failed."""
        number = next(self._numbers)
        text = json.dumps({"model": model, "messages": [], "max_tokens": max_tokens})
        body = (text[:-1] + " " * (BODY_BYTES - len(text)) + "}").encode()
        headers = [("Content-Type", "application/json"), ("X-Request-Id", f"pressed-{number}")]
        idle = self._idle.setdefault(url, [])
        if idle:
            client = idle.pop(0)
        else:
            client = Downstream(url)
            await client.__aenter__()
            self._open.append(client)
        passage = Passage(url, model, monotonic_ns(), tokens=PROMPT_TOKENS + number * 37 % (max_tokens + 1))
        self.passages[f"pressed-{number}"] = passage
        try:
            answer = await client.ask("POST", CHAT, body, headers)
        except ConnectionError as error:
            self.failures[type(error).__name__] += 1
            return passage, None
        passage.answered_ns, passage.status = monotonic_ns(), answer.status
        if not client.is_closed:
            idle.append(client)
        return passage, answer

    async def push(self, urls: Sequence[str], model: str, per_s: float, seconds: float) -> None:
        """Send at that rate to the gateways in turn; over when all are answered."""
        loop = asyncio.get_running_loop()
        began = due = loop.time()
        tasks: list[asyncio.Task[Any]] = []
        turn = 0
        while due < began + seconds:
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.append(loop.create_task(self.ask(urls[turn % len(urls)], model)))
            turn += 1
            due += 1 / per_s
        await asyncio.gather(*tasks)

    def of(self, model: str) -> list[Passage]:
        """All requests for a model, in the order in which they were sent."""
        return [passage for passage in self.passages.values() if passage.model == model]

    def admitted(self, model: str) -> list[Passage]:
        """Those that reached the upstream."""
        return [passage for passage in self.of(model) if passage.is_admitted]


# ---------------------------------------------------------------- the gateways


def redis_at(port: int, timeout_s: float = 0.005, replicas: int = 1) -> str:
    """The configuration's table; all as it is by default."""
    return f'[redis]\nurl = "redis://127.0.0.1:{port}"\ntimeout = {timeout_s}\nreplicas = {replicas}\n'


def rates(per_minute: int, burst: int, tokens_per_minute: int) -> str:
    """Rules behind `[rate_limiting]`: of requests for the model `rate`, and of tokens for the model `tokens`."""
    return f"""
[[rate_limiting.rules]]
name = "rate"
by = "global"
models = ["rate"]
requests_per_minute = {per_minute}
burst = {burst}
[[rate_limiting.rules]]
name = "tokens"
by = "global"
models = ["tokens"]
tokens_per_minute = {tokens_per_minute}
"""


def token_load(times: int, tokens_per_minute: int, seconds: float) -> float:
    """Requests a second that use so many times what such a rule allows: about 150 tokens each, and the burst is a minute's."""
    return times * tokens_per_minute * (1 + seconds / 60) / seconds / 150


@asynccontextmanager
async def gateways(press: Press, workers: int, extra: str, count: int = 2) -> AsyncIterator[list[Operated]]:
    """So many alike, in front of its upstream."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(operated([press.upstream.url], workers=workers, extra=extra))
            for _ in range(count)
        ]


# ---------------------------------------------------------------- the oracle


def one_bucket(
    passages: Iterable[Passage], burst: float, per_s: float, reserved: float = 1.0, *, tokens: bool = False
) -> float:
    """Return the units that a single token bucket would have admitted of these requests at the times they were sent. For
    tokens, `reserved` are taken, and the unused part is returned with the response.

    Clients that were delayed for longer than the bucket takes to fill are no fault of the limiter; here, they cost the same.
    """
    level, then, used = burst, 0, 0.0
    back: list[tuple[int, float]] = []
    for passage in sorted(passages, key=lambda one: one.sent_ns):
        while back and back[0][0] <= passage.sent_ns:
            at, amount = heappop(back)
            level, then = min(burst, level + max(0, at - then) * per_s / NS + amount), max(then, at)
        level, then = min(burst, level + max(0, passage.sent_ns - then) * per_s / NS), max(then, passage.sent_ns)
        if level >= reserved:
            level -= reserved
            amount = passage.tokens if tokens else 1.0
            used += amount
            if amount < reserved:
                heappush(back, (passage.answered_ns, reserved - amount))
    return used


def one_table(passages: Iterable[Passage], slots: int) -> list[tuple[int, int]]:
    """From when to when a single table of slots that everybody asks in person would have held one for these requests, at the
    moments at which they were sent: until they were answered, and for as long as most others if they were refused in truth.
    """
    ordered = sorted(passages, key=lambda one: one.sent_ns)
    usual = int(statistics.median(one.answered_ns - one.sent_ns for one in ordered if one.is_admitted))
    held: list[int] = []
    spans: list[tuple[int, int]] = []
    for passage in ordered:
        while held and held[0] <= passage.sent_ns:
            heappop(held)
        if len(held) < slots:
            spans.append((passage.sent_ns, passage.answered_ns if passage.is_admitted else passage.sent_ns + usual))
            heappush(held, spans[-1][1])
    return spans


def windows(passages: list[Passage], *, tokens: bool = False) -> list[tuple[int, int, float]]:
    """Return the input of `excess`: one unit per request, or its tokens."""
    return [(passage.sent_ns, passage.arrived_ns, float(passage.tokens) if tokens else 1.0) for passage in passages]


def excess(taken: Iterable[tuple[int, int, float]], burst: float, per_s: float) -> float:
    """By how much any window of time holds more than `burst` and what refills in it; below zero when none does.

    `taken`: (sent, arrived, amount) of what was admitted. It was decided at some moment in between, so only what was sent
    and arrived within a window counts as decided in it: nothing here needs a tolerance.
    """
    events = sorted(taken, reverse=True)
    ends: list[int] = []
    amounts: list[float] = []
    worst = float("-inf")
    for began, ended, amount in events:
        place = bisect(ends, ended)
        ends.insert(place, ended)
        amounts.insert(place, amount)
        for end, total in zip(ends, accumulate(amounts)):
            over = total - (end - began) * per_s / NS
            if over > worst:
                worst = over
    return worst - burst


def most_at_once(spans: Iterable[tuple[int, int]]) -> int:
    """Return the maximum number of overlapping spans (from, to)."""
    steps = sorted(step for began, ended in spans for step in ((began, 1), (ended, -1)))
    return max(accumulate(change for _, change in steps), default=0)


def mean_at_once(spans: Iterable[tuple[int, int]], began: int, ended: int) -> float:
    """Return the mean number of overlapping spans in a window."""
    return sum(max(0, min(to, ended) - max(since, began)) for since, to in spans) / (ended - began)
