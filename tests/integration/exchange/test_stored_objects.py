"""Requests about stored objects go to the upstream that holds them, whichever worker remembers it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received, chunked, head, sse

from budgateway.records import Fallback, Retries

pytestmark = pytest.mark.integration

JSON = [("Content-Type", "application/json")]
TIMES = 6


class Storing:
    """An upstream's answers: objects whose ids name it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._count = 0

    async def __call__(self, peer: Peer, request: Received) -> None:
        path = request.target.partition("?")[0]
        if request.method == "POST" and path == "/v1/responses":
            self._count += 1
            answer = {"id": f"resp_{self.name}{self._count}", "object": "response", "output": [{"id": "msg_1"}]}
            if json.loads(request.body).get("stream"):
                created = {"type": "response.created", "response": answer}
                done = {"type": "response.completed", "response": answer}
                events = sse(json.dumps(created), json.dumps(done))
                lines = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
                await peer.send(head(200, lines, reason="OK") + chunked(events))
                return
        elif request.method == "POST" and path in ("/v1/files", "/v1/batches", "/v1/conversations"):
            self._count += 1
            kind = {"files": "file-", "batches": "batch_", "conversations": "conv_"}[path.split("/")[2]]
            answer = {"id": f"{kind}{self.name}{self._count}", "output_file_id": f"file-{self.name}-out"}
        else:
            answer = {"by": self.name}
        await peer.send(faults.json_bytes(answer))


@asynccontextmanager
async def two(log: Path, **options: Any) -> AsyncIterator[tuple[Inside, FaultyUpstream, FaultyUpstream]]:
    """A gateway before two upstreams that store."""
    async with (
        FaultyUpstream(Storing("a")) as a,
        FaultyUpstream(Storing("b")) as b,
        inside([a.url, b.url], log, path="/v1/*", **options) as gateway,
    ):
        yield gateway, a, b
        await gateway.at_rest()


async def ask(gateway: Inside, method: str, path: str, **members: Any) -> Answer:
    body = json.dumps(members).encode() if method == "POST" else None
    async with Downstream(gateway.url) as client:
        answer = await client.ask(method, path, body, JSON if body else [])
    assert answer.status == 200, bytes(answer.body)
    return answer


def owner(name: str) -> str:
    """The upstream that an id names."""
    return name.replace("file-", "").replace("_", " ").split(" ")[-1][0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_is_found_by_its_id(stream: bool, tmp_path: Path) -> None:
    async with two(tmp_path) as (gateway, _, _):
        for _ in range(TIMES):
            created = await ask(gateway, "POST", "/v1/responses", model="m", input="x", stream=stream)
            text = bytes(created.body).decode()
            name = text[text.index("resp_") :].partition('"')[0]
            for _ in range(3):
                for method, path in (
                    ("GET", f"/v1/responses/{name}"),
                    ("GET", f"/v1/responses/{name}/input_items?limit=2"),
                    ("POST", f"/v1/responses/{name}/cancel"),
                    ("DELETE", f"/v1/responses/{name}"),
                ):
                    assert (await ask(gateway, method, path)).json() == {"by": owner(name)}
                again = await ask(gateway, "POST", "/v1/responses", model="m", input="y", previous_response_id=name)
                assert owner(again.json()["id"]) == owner(name)


async def test_files_batches_and_conversations_are_found(tmp_path: Path) -> None:
    async with two(tmp_path) as (gateway, _, _):
        for _ in range(TIMES):
            file = (await ask(gateway, "POST", "/v1/files", purpose="batch")).json()["id"]
            batch = (await ask(gateway, "POST", "/v1/batches", input_file_id=file)).json()
            assert owner(batch["id"]) == owner(file)
            for _ in range(3):
                for path in (
                    f"/v1/files/{file}",
                    f"/v1/files/{file}/content",
                    f"/v1/files/{batch['output_file_id']}/content",
                    f"/v1/batches/{batch['id']}",
                ):
                    assert (await ask(gateway, "GET", path)).json() == {"by": owner(file)}
            talk = (await ask(gateway, "POST", "/v1/conversations")).json()["id"]
            for member in (talk, {"id": talk}):
                made = await ask(gateway, "POST", "/v1/responses", model="m", input="x", conversation=member)
                assert owner(made.json()["id"]) == owner(talk)


async def test_an_object_of_a_fallback_is_found_there_and_one_of_the_provider_has_no_fallback(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(Storing("o")) as other,
        FaultyUpstream(Storing("a"), faults.status(503)) as a,
        inside(
            a.url,
            tmp_path,
            path="/v1/*",
            beside={"/other": other.url},
            route={"retries": Retries(max_attempts=1, fallbacks=(Fallback("/other"),))},
        ) as gateway,
    ):
        first = (await ask(gateway, "POST", "/v1/responses", model="m", input="x")).json()["id"]
        assert owner(first) == "a"
        second = (await ask(gateway, "POST", "/v1/responses", model="m", input="x")).json()["id"]
        assert owner(second) == "o"
        assert (await ask(gateway, "GET", f"/v1/responses/{second}")).json() == {"by": "o"}
        async with Downstream(gateway.url) as client:
            answer = await client.ask("GET", f"/v1/responses/{first}")
        assert answer.status == 503
        await gateway.at_rest()


async def test_an_unknown_id_goes_anywhere(tmp_path: Path) -> None:
    async with two(tmp_path) as (gateway, a, b):
        for _ in range(TIMES):
            await ask(gateway, "GET", "/v1/responses/resp_unknown")
        assert a.requests
        assert b.requests


async def test_chats_of_the_route_stay_on_the_fast_path_and_responses_off_it(tmp_path: Path) -> None:
    async with two(tmp_path) as (gateway, _, _), Downstream(gateway.url) as client:
        assert gateway.plane.fastpath is not None

        async def served(path: str) -> int:
            before = gateway.plane.fastpath.native.served()  # type: ignore[union-attr]
            for _ in range(TIMES):
                body = json.dumps({"model": "m", "messages": [], "input": "x"}).encode()
                await client.send(request_bytes("a", "POST", path, body, JSON))
                assert (await client.answer()).status == 200
            return gateway.plane.fastpath.native.served() - before  # type: ignore[union-attr]

        assert await served("/v1/chat/completions") > 0
        assert await served("/v1/responses") == 0
        assert await served("/v1/chat/completions") > 0
