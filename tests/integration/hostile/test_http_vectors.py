"""Requests that others collected: what is malformed gets 4xx and a close and never reaches an upstream (RELIABILITY S1)."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
from corpora import ABSENT, FOLDER
from downstream import Answer, Downstream
from integration.gateways import gateway
from integration.processes import Server
from ports import free_port
from upstreams import faults
from upstreams.faulty import FaultyUpstream
from upstreams.wire import NotHttp, Received, RequestScanner

GUNICORN = FOLDER / "http1-gunicorn" / "vectors.jsonl"
LLHTTP = FOLDER / "http1-llhttp" / "vectors.jsonl"
MAX_WAIT_S = 0.15  # how long a request that may be incomplete is left alone
# RFC 3986 allows sub-delims in a host; no host that exists has one, and a gateway may say so.
PLAIN_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]+")
# Nobody need take two slashes in a row: servers differ in what they are.
PLAIN_TARGET = re.compile(r"(?!.*//)/[A-Za-z0-9/._~!$&'()*+,;=:@%?|-]*")
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not (GUNICORN.exists() and LLHTTP.exists()), reason=ABSENT),
]


@dataclass(frozen=True, slots=True)
class Vector:
    """One connection's bytes and what a strict server makes of them.

    `right` messages at the front are right and wanted, with these `bodies`; `then` says what follows them: nothing, or what is malformed.
    `unsure`: a lenient server takes it; ours may refuse it, as long as it says so.
    """

    name: str
    raw: bytes
    right: int
    then: Literal["nothing", "malformed", "unsure"]
    bodies: list[bytes]


def vectors() -> list[Vector]:
    """All requests of both corpora, but for those that need another protocol."""
    if not (GUNICORN.exists() and LLHTTP.exists()):
        return []
    found = []
    rows = [json.loads(line) for path in (GUNICORN, LLHTTP) for line in path.read_text().splitlines()]
    for row in rows:
        if row.get("scope", "http1") != "http1" or row.get("kind", "request") != "request":
            continue
        # HEAD's answers cannot be told apart without knowing the question; test_curl asks it.
        raw = base64.b64decode(row["raw_b64"]).replace(b"HEAD /", b"GET /")
        # What another server's settings, leniency or limits decided is not the standard's verdict.
        limit = (row.get("gunicorn_error") or "").startswith("Limit") or "Data after" in (row.get("reason") or "")
        lenient = limit or bool(row.get("gunicorn_config")) or not row.get("strict", True)
        found.append(judged(row["id"], raw, row["expect"], lenient=lenient))
        if b"\r\nhost:" not in raw.lower():
            # Both corpora mostly leave Host out, which alone is a reason to refuse (RFC 9112 3.2): its twin has one.
            twin = raw.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\nHost: a\r\n")
            found.append(judged(f"{row['id']} with Host", twin, row["expect"], lenient=lenient))
    return found


def judged(name: str, raw: bytes, expect: str, *, lenient: bool) -> Vector:
    """Our own verdict: the rig's reader is strict, and the corpus is believed where it says "reject"."""
    scanner = RequestScanner()
    scanner.feed(raw)
    right = 0
    bodies: list[bytes] = []
    try:
        while (request := scanner.take(0)) is not None and is_plain(request):
            right += 1
            bodies.append(request.body)
            if "close" in (request.header("connection") or "").lower():
                return Vector(name, raw, right, "nothing", bodies)
    except NotHttp as error:
        is_bad = (expect == "reject" and not lenient) or str(error) == "no host"
        return Vector(name, raw, right, "malformed" if is_bad else "unsure", bodies)
    if request is not None or scanner.pending:
        return Vector(name, raw, right, "malformed" if expect == "reject" and not lenient else "unsure", bodies)
    return Vector(name, raw, right, "nothing" if expect == "accept" or right else "unsure", bodies)


def is_plain(request: Received) -> bool:
    """True when every gateway must accept it."""
    return (
        request.method in METHODS
        and PLAIN_TARGET.fullmatch(request.target) is not None
        and PLAIN_HOST.fullmatch(request.header("host") or "") is not None
    )


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(port: int) -> Iterator[Server]:
    provider = {"health_check_interval": 3600.0}
    with gateway(f"http://127.0.0.1:{port}", paths=["/*"], provider=provider) as server:
        yield server


@pytest.fixture
async def upstream(server: Server, port: int) -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.echo(), port=port) as upstream:
        yield upstream


@pytest.mark.parametrize("size", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
async def test_verdict(server: Server, upstream: FaultyUpstream, vector: Vector, size: int) -> None:
    answers = await talk(server, vector, size)
    statuses = [answer.status for answer in answers]
    assert all(answer.is_complete for answer in answers)
    assert statuses[: vector.right] == [200] * vector.right
    assert [request.body for request in upstream.requests][: vector.right] == vector.bodies
    rest = statuses[vector.right :]
    match vector.then:
        case "nothing":
            assert rest in ([], [400], [408])  # what is behind a close is not read, or is refused
            assert len(upstream.requests) == vector.right
        case "malformed":
            assert len(rest) <= 1, statuses
            assert all(400 <= status < 500 or status in (501, 505) for status in rest)
            assert len(upstream.requests) == vector.right
        case "unsure":
            # `OPTIONS *` asks the gateway itself (RFC 9110 9.3.7).
            own = 204 if vector.raw.startswith(b"OPTIONS * ") else 200
            # Whatever was sent on was read strictly by the upstream, which fails this test for anything odd.
            assert all(status in (200, own) or 400 <= status < 500 or status in (501, 505) for status in rest)
            assert len(upstream.requests) == statuses.count(200)


async def talk(server: Server, vector: Vector, size: int) -> list[Answer]:
    """Send it, in pieces of that size, then FIN; what came until the server closed."""
    raw, size = vector.raw, size or len(vector.raw)
    answers = []
    async with Downstream(server.url) as client:
        for at in range(0, len(raw), size):
            if client.is_closed:
                break
            await client.send(raw[at : at + size])
        try:
            # FIN means "I have left" to a gateway: first let it answer.
            for _ in range(vector.right):
                answers.append(await client.answer())
            if vector.then == "unsure":
                async with asyncio.timeout(MAX_WAIT_S):
                    while True:
                        answers.append(await client.answer())
        except ConnectionError:
            return answers
        except TimeoutError:
            pass
        if not client.is_closed:
            client.finish()
        while True:
            try:
                answers.append(await client.answer())
            except ConnectionError:
                return answers
