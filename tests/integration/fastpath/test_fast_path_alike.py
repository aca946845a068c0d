"""The fast path and the ordinary path give the same result: one gateway with and one without the fast path, compared.

Each case compares the bytes of the response, the bytes sent upstream, the connection's fate, access lines and metrics.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.inside import Inside, inside
from tokens import SECRET, own
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received, chunked, head

from budgateway.native import Metrics
from budgateway.records import Allowance, Auth, LimitRule, ModelPrice, Permission, Secret

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

CHAT = "/v1/chat/completions"
JSON = ("content-type", "application/json")
PLAIN = b'{"model":"demo","messages":[]}'
MANY = [("host", "a"), JSON, ("x-request-id", "given-1")]
TRIES = 6
LEFT = re.compile(rb"x-ratelimit-remaining-tokens: (\d+)")


@dataclass(frozen=True)
class Case:
    """A request, in the pieces it is sent in, and the answer to it, in the pieces the upstream sends."""

    name: str
    pieces: tuple[bytes, ...]
    answer: tuple[bytes, ...] = (faults.chat_bytes(),)
    closes: bool = False  # the upstream, behind its answer
    answers: int = 1
    is_fast: bool = False
    behind: bool = True  # a further request on the connection


def request(
    body: bytes = PLAIN,
    headers: Sequence[tuple[str, str]] = MANY,
    method: str = "POST",
    target: str = CHAT,
    version: str = "1.1",
    length: int | None = None,
) -> bytes:
    """As it stands on the wire, right or wrong."""
    told = [*headers, ("content-length", str(len(body) if length is None else length))]
    lines = [f"{method} {target} HTTP/{version}", *(f"{name}: {value}" for name, value in told), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def bare(text: str, body: bytes = b"") -> bytes:
    return text.replace("\n", "\r\n").encode("latin-1") + body


def sized(size: int) -> bytes:
    """A body of so many bytes."""
    text = b'{"model":"demo","messages":[],"p":"'
    return text + b"x" * (size - len(text) - 2) + b'"}'


def said(size: int, status: int = 200, *headers: tuple[str, str]) -> bytes:
    """A whole JSON answer of so many bytes."""
    body = b'{"p":"' + b"y" * (size - 8) + b'"}'
    return head(status, [JSON, ("content-length", str(size)), *headers]) + body


HEADERS: dict[str, list[tuple[str, str]]] = {
    "few": [("host", "a"), JSON],
    "shouted": [("HOST", "A"), ("CONTENT-TYPE", "APPLICATION/JSON"), ("X-REQUEST-ID", "Given")],
    "browser": [
        *MANY,
        ("user-agent", "x" * 300),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, br"),
        ("cookie", "a=b; c=d"),
    ],
    "twice": [*MANY, ("x-a", "1"), ("x-a", "2"), ("x-empty", ""), ("accept", "a"), ("accept", "b")],
    "hop": [
        *MANY,
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
    ],
    "latin": [*MANY, ("x-latin", "caf\xe9"), ("x-tab", "a\tb")],
    "credential": [*MANY, ("authorization", "Bearer of-nobody"), ("x-api-key", "k"), ("api-key", "l")],
    "forwarded": [*MANY, ("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4"), ("via", "1.1 x")],
    "bad id": [("host", "a"), JSON, ("x-request-id", "no such id \xe9")],
    "two ids": [*MANY, ("x-request-id", "given-2")],
    "charset": [("host", "a:80"), ("content-type", "application/json; charset=utf-8"), ("x-request-id", "n")],
    "many": [*MANY, *((f"x-header-{number}", "v" * number) for number in range(60))],
    "traced": [*MANY, ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
}
BODIES: dict[str, bytes] = {
    **{f"{size} bytes": sized(size) for size in (100, 2047, 2048, 8191, 8192, 20_000, 60_000)},
    "spaces": b' \r\n\t {"messages" : [] , "model" : "demo"} \n',
    "max": b'{"model":"demo","max_tokens":7}',
    "model last": b'{"messages":[{"model":"other"}],"stream":false,"model":"demo"}',
}
ANSWERS: dict[str, bytes] = {
    "usage": faults.chat_bytes("more words"),
    "201": said(40, 201),
    "9 KB": said(9000),
    "nearly a read": said(16_384 - 100),
    "headers": said(30, 200, ("x-a", "1"), ("x-a", "2"), ("set-cookie", "a=b"), ("server", "s"), ("date", "today")),
    "limits": said(
        30, 200, ("x-ratelimit-remaining-requests", "9"), ("x-request-id", "theirs"), ("openai-version", "1")
    ),
    "hop": said(30, 200, ("connection", "keep-alive, x-b"), ("x-b", "1"), ("keep-alive", "timeout=5")),
    "problem": head(200, [("content-type", "application/problem+json"), ("content-length", "2")]) + b"{}",
    "reason": bare("HTTP/1.1 200 Quite All Right\nContent-Type: application/json\nContent-Length: 2\n\n", b"{}"),
}


def riders() -> list[Case]:
    """Every part once, and by lot."""
    cases = [Case(f"headers: {name}", (request(headers=headers),), is_fast=True) for name, headers in HEADERS.items()]
    cases += [Case(f"body: {name}", (request(body),), is_fast=True) for name, body in BODIES.items()]
    cases += [Case(f"answer: {name}", (request(),), (wire,), is_fast=True) for name, wire in ANSWERS.items()]
    cases += [
        Case("query", (request(target=CHAT + "?a=b&api-version=1"),), is_fast=True),
        Case("path", (request(target="/v1/%63hat/completions/"),), is_fast=True),
        Case("absolute", (request(target="http://a/v1/x"),), is_fast=True),
    ]
    lot = random.Random(7)
    for number in range(30):
        headers = lot.choice(list(HEADERS.values()))
        body = sized(lot.randint(60, 40_000)) if lot.random() < 0.5 else lot.choice(list(BODIES.values()))
        wire = said(lot.randint(10, 16_000)) if lot.random() < 0.5 else lot.choice(list(ANSWERS.values()))
        cases.append(Case(f"lot {number}", (request(body, headers),), (wire,), is_fast=True))
    return cases


def others() -> list[Case]:
    """Cases that must take the ordinary path, from the beginning or from the response on."""
    whole, half = request(), len(request()) // 2
    stream = faults.stream_bytes()
    gone = gzip.compress(PLAIN, mtime=0)
    cases = [
        Case("head, then body", (whole[: whole.index(b"{")], whole[whole.index(b"{") :])),
        Case("in the head", (whole[:half], whole[half:])),
        Case("byte by byte", tuple(whole[at : at + 1] for at in range(len(whole)))),
        Case("80 KB", (request(sized(80_000)),)),
        Case("two at once", (whole + request(sized(300)),), answers=2),
        Case("two and a half", (whole + whole + whole[:half], whole[half:]), answers=3),
        Case("1.0", (request(version="1.0"),), behind=False),
        Case("1.0 that stays", (request(headers=[*MANY, ("connection", "keep-alive")], version="1.0"),)),
        Case("close", (request(headers=[*MANY, ("connection", "close")]),), behind=False),
        Case("proxy's close", (request(headers=[*MANY, ("proxy-connection", "close")]),)),
        Case("continue", (request(headers=[*MANY, ("expect", "100-continue")]),)),
        Case("upgrade", (request(headers=[*MANY, ("connection", "upgrade"), ("upgrade", "h2c")]),)),
        Case("timed", (request(headers=[*MANY, ("x-request-timeout", "5")]),)),
        Case("head method", (bare(f"HEAD {CHAT} HTTP/1.1\nhost: a\n\n"),), (head(200, [JSON, ("content-length", "0")]),), behind=False),
        Case("get", (bare(f"GET {CHAT} HTTP/1.1\nhost: a\n\n"),)),
        Case("put", (request(method="PUT"),)),
        Case("encoded", (request(gone, [*MANY, ("content-encoding", "gzip")]),)),
        Case("text", (request(headers=[("host", "a"), ("content-type", "text/plain")]),)),
        Case("no type", (request(headers=[("host", "a")]),)),
        Case("chunked", (bare(f"POST {CHAT} HTTP/1.1\nhost: a\ncontent-type: application/json\ntransfer-encoding: chunked\n\n") + chunked([PLAIN]),)),
        Case("one byte", (request(b"1"),)),
        Case("no body", (request(b""),)),
        Case("list", (request(b'[{"model":"demo"}]'),)),
        Case("no model", (request(b'{"messages":[]}'),)),
        Case("empty model", (request(b'{"model":""}'),)),
        Case("number as model", (request(b'{"model":1}'),)),
        Case("model twice", (request(b'{"model":"a","model":"demo"}'),)),
        Case("escaped model", (request(rb'{"model":"\u0064emo"}'),)),
        Case("other model", (request(b'{"model":"never asked before"}'),)),
        Case("no json", (request(b'{"model":"demo"'),)),
        Case("no utf-8", (request(b'{"model":"de\xffmo"}'),)),
        Case("stream, and a document", (request(b'{"model":"demo","stream":true}'),)),
        Case("stream", (request(b'{"model":"demo","stream":true}'),), (stream,)),
        Case("path with dots", (request(target="/v1/chat/../x"),), behind=False),
        Case("path with two slashes", (request(target="/v1//chat"),), behind=False),
        Case("no host", (request(headers=[JSON]),), behind=False),
        Case("two hosts", (request(headers=[*MANY, ("host", "b")]),), behind=False),
        Case("two lengths", (request(headers=[*MANY, ("content-length", "1")]),), behind=False),
        Case("length and chunks", (request(headers=[*MANY, ("transfer-encoding", "chunked")]),), behind=False),
        Case("space in a name", (request(headers=[*MANY, ("x y", "1")]),), behind=False),
        Case("bare feed", (request().replace(b"\r\n", b"\n"),), behind=False),
        Case("folded", (request(headers=[*MANY, ("x", "1\r\n 2")]),), behind=False),
        Case("cut short", (request(length=20),), behind=False),
        Case("nothing behind", (request(sized(70)) + b"\r\n",)),
        Case("20 KB, and a line", (request(sized(20_000)) + b"\r\n",)),
        Case("20 KB, and one more", (request(sized(20_000)) + whole,), answers=2),
        Case("20 KB, cut short", (request(sized(20_000), length=9_000),), behind=False),
        Case("20 KB, two lengths", (request(sized(20_000), [*MANY, ("content-length", "20000")]),), behind=False),
        Case("20 KB, in two", (request(sized(20_000))[:12_000], request(sized(20_000))[12_000:])),
        Case("20 KB, other model", (request(sized(20_000).replace(b"demo", b"a model")),)),
    ]  # fmt: skip
    for status in (301, 400, 404, 422, 429, 500, 503):
        cases.append(Case(f"status {status}", (whole,), (said(50, status),)))
    cases += [
        Case("retry-after", (whole,), (said(50, 429, ("retry-after", "3600")),)),
        Case("204", (whole,), (head(204, [JSON]),)),
        Case("empty", (whole,), (head(200, [JSON, ("content-length", "0")]),)),
        Case("chunked answer", (whole,), (head(200, [JSON, faults.CHUNKED]) + chunked([b"{", b"}"]),)),
        Case("events", (whole,), (stream,)),
        Case("whole events", (whole,), (head(200, [faults.EVENT_STREAM, ("content-length", "20")]) + b"data: [DONE]\n\n: ok\n\n",)),
        Case("text answer", (whole,), (head(200, [("content-type", "text/plain"), ("content-length", "2")]) + b"ok",)),
        Case("zipped answer", (whole,), (head(200, [JSON, ("content-encoding", "gzip"), ("content-length", str(len(gone)))]) + gone,)),
        Case("16 KB", (whole,), (said(16_500),)),
        Case("100 KB", (whole,), (said(100_000),)),
        Case("answer in pieces", (whole,), (said(60)[:-20], said(60)[-20:])),
        Case("head in pieces", (whole,), (said(60)[:20], said(60)[20:])),
        Case("interim", (whole,), (head(100, []) + said(60),)),
        Case("hint", (whole,), (head(103, [("link", "x")]), said(60))),
        Case("closes", (whole,), (said(60, 200, ("connection", "close")),), closes=True),
        Case("1.0 answer", (whole,), (b"HTTP/1.0" + said(60)[8:],), closes=True),
        Case("until the end", (whole,), (head(200, [JSON]) + b"{}",), closes=True),
        Case("error in disguise", (whole,), (faults.json_bytes({"error": {"message": "no"}}),)),
        Case("no http", (whole,), (b"what?\r\n\r\n",), closes=True),
        Case("cut off", (whole,), (said(60)[:-1],), closes=True),
        Case("nothing", (whole,), (), closes=True),
        Case("more than it said", (whole,), (said(60) + b"HTTP/1.1 200 OK\r\n\r\n",)),
        Case("two lengths in the answer", (whole,), (said(60, 200, ("content-length", "61")),)),
    ]  # fmt: skip
    return cases


# ---------------------------------------------------------------- two gateways


@dataclass
class Pair:
    """The open one and the closed one, in front of one upstream."""

    open: Inside
    closed: Inside
    upstream: FaultyUpstream
    case: Case
    warm: bytes = request()

    @property
    def served(self) -> int:
        assert self.open.plane.fastpath is not None
        return self.open.plane.fastpath.native.served()

    async def tell(self, gateway: Inside, case: Case) -> tuple[bytes, list[bytes], bool]:
        """Run a case; return the bytes that client and upstream read, and whether the connection stays open."""
        self.case = Case("usual", (b"",))
        async with Downstream(gateway.url) as client:
            await client.send(self.warm)
            assert (await client.answer()).status == 200
            seen, read = len(self.upstream.requests), len(client.bytes_read)
            self.case = case
            for piece in case.pieces:
                await client.send(piece)
                if len(case.pieces) > 1:
                    await asyncio.sleep(0.001)
            async with asyncio.timeout(10):
                for _ in range(case.answers):
                    await client.answer()
            self.case = Case("usual", (b"",))
            stays = False
            if case.behind:
                try:
                    await client.ask("POST", CHAT, PLAIN, [JSON, ("x-request-id", "behind")])
                    stays = not client.is_closed
                except ConnectionError:
                    pass
            else:
                await asyncio.sleep(0.01)
                stays = not client.is_closed
            await gateway.at_rest()
            sent = [bytes(one.raw) for one in self.upstream.requests[seen:]]
            return bytes(client.bytes_read[read:]), sent, stays


@asynccontextmanager
async def pair(log: Path, **options: Any) -> AsyncIterator[Pair]:
    """Two that differ in this alone."""

    async def answer(peer: Peer, _: Received) -> None:
        case = made.case
        for piece in case.answer:
            await peer.send(piece)
            if len(case.answer) > 1:
                await asyncio.sleep(0.005)
        if case.closes:
            peer.close()

    (log / "open").mkdir()
    (log / "closed").mkdir()
    async with (
        FaultyUpstream(answer) as upstream,
        inside(upstream.url, log / "open", path="/v1/*", beside={"/other": upstream.url}, **options) as opened,
        inside(upstream.url, log / "closed", path="/v1/*", beside={"/other": upstream.url}, **options) as closed,
    ):
        assert closed.plane.fastpath is not None
        closed.plane.fastpath.native.open(False)
        made = Pair(opened, closed, upstream, Case("usual", (b"",)))
        yield made
        assert not closed.plane.fastpath.native.served()


def without_times(told: tuple[bytes, list[bytes], bool]) -> tuple[bytes, list[bytes], bool]:
    """Names that are given by the gateway, and what differs from one moment to the next, left out."""
    answer, sent, stays = told
    answer = re.sub(
        rb"(\ndate:|\nretry-after:|x-budgateway-overhead-us:|-reset-(?:requests|tokens):|-remaining-tokens:"
        rb"|rate-limit-re(?:set|maining):) [^\r]*",
        rb"\1",
        answer,
    )
    ids = rb"(x-request-id: |\"request_id\": \")[0-9a-f]{16,}"
    return re.sub(ids, rb"\1", answer), [re.sub(ids, rb"\1", one) for one in sent], stays


def lines_of(log: Path) -> list[dict[str, Any]]:
    whole = (log / "access.log").read_text().rpartition("\n")[0]  # the writer may be in the middle of one
    lines = [json.loads(line) for line in whole.splitlines()]
    for line in lines:
        for name in ("ts", "duration_ms", "overhead_us", "ttft_ms", "tpot_ms"):
            line.pop(name, None)
        line["request_id"] = re.sub("^[0-9a-f]{16,}$", "", line["request_id"])
    return lines


def counts_of(gateway: Inside) -> dict[tuple[str, str, str, int], dict[str, Any]]:
    """All that metrics count, but times."""
    names = ("count", "outcomes", "bytes_in", "bytes_out", "tokens_in", "tokens_out")
    return {
        (series.route, series.provider, series.model, series.status): {name: getattr(series, name) for name in names}
        for series in Metrics(gateway.plane._segment).collect()
    }


def histograms_of(gateway: Inside) -> dict[tuple[str, ...], list[Any]]:
    """The number of additions to each histogram, and the sizes that were added."""
    metrics = Metrics(gateway.plane._segment)
    names = ("plain", "stream", "first_byte", "first_token")
    found: dict[tuple[str, ...], list[Any]] = {
        (times.route, times.provider, times.model): [*(sum(getattr(times, name)[0]) for name in names), times.tokens]
        for times in metrics.times()
    }
    return found | {(route,): [sum(buckets)] for route, (buckets, _) in metrics.overheads()}


async def alike(made: Pair, case: Case) -> None:
    """The two agree, and a case that the fast path can serve is once served by it."""
    for _ in range(TRIES if case.is_fast else 1):
        before = made.served
        opened = await made.tell(made.open, case)
        count = made.served - before
        closed = await made.tell(made.closed, case)
        tokens = [[int(left) for left in LEFT.findall(told[0])] for told in (opened, closed)]
        # Twelve a second come back.
        assert all(abs(one - other) < 60 for one, other in zip(*tokens, strict=True)), (case.name, tokens)
        assert without_times(opened) == without_times(closed), case.name
        if count:
            break
    assert not case.is_fast or count > 0, f"{case.name} was never served"


async def same_books(made: Pair, log: Path) -> None:
    """Lines and counts of both."""
    for gateway in (made.open, made.closed):
        await gateway.at_rest()
        gateway.plane._access.flush()  # type: ignore[union-attr]
    for gateway, name in ((made.open, "open"), (made.closed, "closed")):
        # A thread writes the lines.
        count = sum(series["count"] for series in counts_of(gateway).values())
        await gateway.until(lambda count=count, name=name: len(lines_of(log / name)) == count, "the last access line")  # type: ignore[misc]
    opened, closed = lines_of(log / "open"), lines_of(log / "closed")
    for one, other in zip(opened, closed, strict=True):
        assert one == other
    assert counts_of(made.open) == counts_of(made.closed)
    assert histograms_of(made.open) == histograms_of(made.closed)


async def test_what_can_ride_is_told_alike(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        for case in riders():
            await alike(made, case)
        await same_books(made, tmp_path)


async def test_what_cannot_ride_is_told_alike(tmp_path: Path) -> None:
    async with pair(tmp_path) as made:
        for case in others():
            await alike(made, case)
        await same_books(made, tmp_path)


async def test_limits_and_prices_are_told_alike(tmp_path: Path) -> None:
    rules = (
        LimitRule("all", (), Allowance(requests_per_day=1000, tokens_per_day=1_000_000)),
        LimitRule("each", ("user",), Allowance(requests_per_day=900)),
    )
    prices = (ModelPrice("demo", 1.5, 6.0, 0.5, max_output_tokens=50),)
    async with pair(tmp_path, limit_rules=rules, prices=prices) as made:
        for case in riders()[::3]:
            await alike(made, replace(case, name=f"limits, {case.name}"))
        await same_books(made, tmp_path)


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
async def test_nobody_is_served_by_the_cached_plan_of_another(tmp_path: Path, header: str) -> None:
    """Every way of giving a credential, behind one that is good and served on the fast path."""
    good, mini = own(roles=["all"], exp=2**32), own(sub="bob", roles=["mini"], exp=2**32)
    basic, bad = "Basic eDp5", good[:-4] + "AAAA"
    ways: list[list[tuple[str, str]]] = [
        [],
        [("authorization", "")],
        [("authorization", f"Bearer {bad}")],
        [("authorization", f"Bearer {mini}")],
        [("authorization", f"bearer {good}")],
        [("authorization", f"Bearer  {good}  ")],
        [("authorization", good)],
        [("x-api-key", good)],
        [("x-api-key", "")],
        [("x-api-key", f"Bearer {good}")],
        [("x-goog-api-key", good)],
        [("x-goog-api-key", mini)],
        [("api-key", good)],
        [("api-key", mini)],
        [("api-key", good), ("x-api-key", bad)],
        [("x-goog-api-key", bad), ("api-key", good)],
        [("authorization", f"Basic {good}")],
        [("x-other-key", good)],
        [("authorization", basic), ("x-api-key", good)],
        [("authorization", ""), ("x-api-key", good)],
        [("x-api-key", mini), ("authorization", f"Bearer {good}")],
        [("x-api-key", good), ("authorization", f"Bearer {bad}")],
        [("x-goog-api-key", good), ("x-api-key", bad)],
        [("authorization", f"Bearer {good}"), ("authorization", f"Bearer {bad}")],
        [("authorization", f"Bearer {bad}"), ("authorization", f"Bearer {good}")],
        [("x-api-key", ""), ("x-api-key", good)],
    ]
    for required in (True, False):
        log = tmp_path / str(required)
        log.mkdir()
        auth = Auth(grants=(Permission("all"), Permission("mini", models=("mini",))))
        options = {"route": {"auth_required": required}, "jwt_secret": Secret(SECRET), "auth": auth}
        async with pair(log, **options) as made:
            given = f"Bearer {good}" if header == "authorization" else good
            made.warm = request(headers=[*MANY, (header, given)])
            await alike(made, Case("itself", (made.warm,), is_fast=True, behind=False))
            for turn in range(2):
                for number, way in enumerate(ways):
                    for model in (b"demo", b"mini"):
                        ask = request(PLAIN.replace(b"demo", model), [*MANY, *way])
                        await alike(made, Case(f"{turn} {number} {model!r}", (ask,)))
            await same_books(made, log)
