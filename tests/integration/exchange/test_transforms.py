"""Transformation rules on sockets: requests and answers, documents and streams, bodies and headers, for each attempt."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream
from upstreams.wire import chunked, head, sse

from budgateway.exchange.exchange_cy import Exchange
from budgateway.kinds import KINDS, Kind
from budgateway.native import HeadEdits
from budgateway.providers.registry import ADAPTERS
from budgateway.providers.translating import Translating
from budgateway.records import (
    Allowance,
    Condition,
    Edit,
    Fallback,
    HeaderRule,
    Hedge,
    LimitRule,
    Mirror,
    Retries,
    Secret,
    SystemText,
    TransformRule,
)

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
EVENT_STREAM = ("content-type", "text/event-stream")
CHUNKED = ("transfer-encoding", "chunked")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
DOCUMENT = {"id": "c", "system_fingerprint": "fp", "choices": [{"message": {"content": "hi"}}], "usage": USAGE}


def event(**members: Any) -> str:
    choices = [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]
    return json.dumps({"object": "chat.completion.chunk", "choices": choices, **members})


LAST = json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
EVENTS = sse(event(system_fingerprint="fp"), event(), LAST, json.dumps({"choices": [], "usage": USAGE}), "[DONE]")
STREAM = head(200, [EVENT_STREAM, CHUNKED], reason="OK") + chunked(EVENTS)
HIDE = TransformRule("hide", response=(Edit("remove", "system_fingerprint"),))


@asynccontextmanager
async def ruled(log: Path, *rules: TransformRule, answer: Any = None, **options: Any) -> AsyncIterator[Any]:
    """A gateway with these rules before an upstream."""
    async with (
        FaultyUpstream(answer or faults.raw(faults.json_bytes(DOCUMENT))) as upstream,
        inside(upstream.url, log, path="/v1/*", transforms=rules, **options) as gateway,
    ):
        yield gateway, upstream
        await gateway.at_rest()


def body_of(**members: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **members}


async def ask(
    gateway: Inside, /, headers: Any = JSON, path: str = CHAT, raw: bytes | None = None, **members: Any
) -> Answer:
    async with Downstream(gateway.url) as client:
        return await client.ask("POST", path, json.dumps(body_of(**members)).encode() if raw is None else raw, headers)


async def test_a_clients_body_is_edited_before_limits_and_routes_names(tmp_path: Path) -> None:
    rules = (
        TransformRule(
            "cap",
            routes=("r*",),
            request=(Edit("remove", "seed"), Edit("default", "temperature", "0.2"), Edit("cap", "max_tokens", "10")),
            system=SystemText("prepend", "be kind"),
        ),
        TransformRule("elsewhere", routes=("other",), request=(Edit("set", "seed", "2"),)),
    )
    limit = LimitRule("few", ("address",), Allowance(tokens_per_minute=100))
    async with ruled(tmp_path, *rules, limit_rules=(limit,)) as (gateway, upstream):
        answer = await ask(gateway, seed=1, max_tokens=100_000)
        assert answer.status == 200, "what is reserved is the cap"
        assert json.loads(upstream.requests[0].body) == {
            "model": "demo",
            "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
            "max_tokens": 10,
            "temperature": 0.2,
        }
        (line,) = await gateway.lines(1)
        assert line["transforms"] == ["cap"]


@pytest.mark.parametrize("size", [300, 20_000, 3_000_000])
async def test_a_body_of_any_size_keeps_the_bytes_that_no_rule_names(size: int, tmp_path: Path) -> None:
    rule = TransformRule("r", request=(Edit("remove", "seed"), Edit("set", "/metadata/team", '"a"')))
    text = json.dumps('\\" é' * (size // 8), ensure_ascii=False)
    body = '{{ "model":"demo", "seed" : 1.50,"messages":[ {{"role" :"user","content":{}}} ]  }}'
    async with ruled(tmp_path, rule) as (gateway, upstream):
        assert (await ask(gateway, raw=body.format(text).encode())).status == 200
        expected = body.replace(' "seed" : 1.50,', "").replace("]  }}", ']  ,"metadata":{{"team":"a"}}}}')
        assert upstream.requests[0].body.decode() == expected.format(text)


async def test_selectors_choose_the_exchanges(tmp_path: Path) -> None:
    rules = [
        TransformRule(name, request=(Edit("set", f"/x/{name}", "1"),), **{selector: (value,)})
        for name, selector, value in [
            ("m", "models", "de*"), ("n", "models", "other"), ("d", "dialects", "openai.chat"), ("e", "dialects", "openai.responses"),
            ("p", "methods", "POST"), ("t", "tenants", "acme"), ("o", "roles", "free"), ("v", "providers", "p"), ("w", "providers", "q"),
        ]
    ]  # fmt: skip
    async with ruled(tmp_path, *rules) as (gateway, upstream):
        await ask(gateway)
        assert list(json.loads(upstream.requests[0].body)["x"]) == ["m", "d", "p", "v"]


async def test_a_rule_with_providers_sees_the_upstreams_body(tmp_path: Path) -> None:
    rule = TransformRule(
        "old",
        providers=("p",),
        request=(
            Edit("rename", "max_completion_tokens", "max_tokens"),
            Edit("set_from", "user", "principal"),
            Edit("set_from", "/metadata/route", "route"),
            Edit("set_from", "/metadata/model", "model"),
            Edit("set_from", "/metadata/team", "header:x-team"),
        ),
        headers=HeaderRule((("x-team", Secret("search")), ("x-new", Secret("1"))), ("user-agent",)),
    )
    provider = {"aliases": (("demo", "bear"),), "forward_headers": ("x-team",)}
    async with ruled(tmp_path, rule, provider=provider) as (gateway, upstream):
        headers = [*JSON, ("User-Agent", "tester"), ("X-Team", "cooks")]
        await ask(gateway, headers=headers, max_completion_tokens=5, user="root")
        (request,) = upstream.requests
        sent = json.loads(request.body)
        assert sent["model"] == "bear"
        assert sent["max_tokens"] == 5
        assert "user" not in sent, "an anonymous client cannot claim to be somebody"
        assert sent["metadata"] == {"route": "r", "model": "demo", "team": "cooks"}
        told = dict(request.headers)
        assert (told["x-team"], told["x-new"]) == ("search", "1")
        assert "user-agent" not in told


async def test_a_fallback_has_rules_of_its_own(tmp_path: Path) -> None:
    rules = (
        TransformRule("first", providers=("p",), request=(Edit("set", "x", '"p"'),), response=(Edit("set", "by", '"p"'),)),
        TransformRule(
            "second", providers=("/other",), request=(Edit("set", "y", '"o"'),), response=(Edit("set", "by", '"o"'),)
        ),
    )  # fmt: skip
    async with (
        FaultyUpstream(faults.raw(faults.json_bytes(DOCUMENT))) as other,
        ruled(
            tmp_path,
            *rules,
            answer=faults.status(503),
            beside={"/other": other.url},
            route={"retries": Retries(fallbacks=(Fallback("/other"),))},
        ) as (gateway, upstream),
    ):
        answer = await ask(gateway)
        assert json.loads(upstream.requests[0].body) == body_of(x="p")
        assert json.loads(other.requests[0].body) == body_of(y="o")
        assert answer.json()["by"] == "o"


async def test_a_hedge_and_a_mirror_are_sent_the_edited_body(tmp_path: Path) -> None:
    rules = (
        TransformRule("own", request=(Edit("set", "x", "1"),)),
        TransformRule("copy", providers=("/other",), request=(Edit("set_from", "/m/r", "route"),)),
    )
    async with (
        FaultyUpstream(faults.chat()) as other,
        FaultyUpstream(faults.silent()) as slow,
        FaultyUpstream(faults.chat()) as quick,
        inside(
            [slow.url, quick.url],
            tmp_path,
            path="/v1/*",
            transforms=(*rules, HIDE),
            beside={"/other": other.url},
            route={
                "mirror": Mirror("/other"),
                "retries": Retries(hedge=Hedge(after_s=0.01)),
            },
        ) as gateway,
    ):
        answer = await ask(gateway)
        assert answer.status == 200
        assert json.loads(quick.requests[0].body) == body_of(x=1)
        await other.until(lambda up: bool(up.requests))
        assert json.loads(other.requests[0].body) == body_of(x=1, m={"r": "r"})
        await gateway.at_rest()


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_a_document_is_edited(size: int, tmp_path: Path) -> None:
    rule = TransformRule(
        "answers",
        response=(Edit("remove", "system_fingerprint"), Edit("set", "/usage/tier", '"x"')),
        response_headers=HeaderRule((("x-served-by", Secret("us")),), ("openai-processing-ms",)),
    )
    wire = faults.json_bytes(DOCUMENT, 200, ("openai-processing-ms", "5"), ("x-kept", "1"), ("etag", '"a"'))
    answer = faults.dribble(wire, size) if size else faults.raw(wire)
    async with ruled(tmp_path, rule, answer=answer) as (gateway, _):
        answered = await ask(gateway)
        expected = {**DOCUMENT, "usage": {**USAGE, "tier": "x"}}
        del expected["system_fingerprint"]
        assert answered.json() == expected
        assert (answered.header("x-served-by"), answered.header("x-kept")) == ("us", "1")
        assert answered.header("content-type") == "application/json"
        assert answered.header("openai-processing-ms") is None
        assert answered.header("etag") is None
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 3, 2)
        assert line["bytes_out"] == len(answered.body)
        assert line["transforms"] == ["answers"]


@pytest.mark.parametrize("size", [0, 1, 7])
async def test_each_event_of_a_stream_is_edited(size: int, tmp_path: Path) -> None:
    answer = faults.dribble(STREAM, size) if size else faults.raw(STREAM)
    async with ruled(tmp_path, HIDE, answer=answer) as (gateway, _):
        answered = await ask(gateway, stream=True, stream_options={"include_usage": True})
        assert bytes(answered.body) == b"".join(EVENTS).replace(b', "system_fingerprint": "fp"', b"")
        assert answered.is_complete
        (line,) = await gateway.lines(1)
        assert (line["outcome"], line["tokens_in"], line["tokens_out"]) == ("complete", 3, 2)
        assert line["bytes_out"] == len(answered.body)


async def test_a_stream_that_breaks_off_ends_in_an_error(tmp_path: Path) -> None:
    async with ruled(tmp_path, HIDE, answer=faults.cut(STREAM, len(STREAM) - 30)) as (gateway, _):
        answered = await ask(gateway, stream=True)
        assert not answered.is_complete
        assert b'"fp"' not in answered.body
        *_, last, end = bytes(answered.body).split(b"\n\n")
        assert end == b""
        assert "error" in json.loads(last.removeprefix(b"data: "))


@pytest.mark.parametrize(
    "answer",
    [
        faults.status(500, body={"system_fingerprint": "fp"}),
        faults.status(404, body={"system_fingerprint": "fp"}),
        faults.raw(faults.json_bytes(["system_fingerprint"])),
    ],
)
async def test_errors_and_what_is_no_object_pass(answer: Any, tmp_path: Path) -> None:
    async with ruled(tmp_path, HIDE, answer=answer) as (gateway, _):
        assert b"system_fingerprint" in (await ask(gateway)).body


@pytest.mark.parametrize("size", [0, 1])
async def test_an_empty_answer_under_200_is_still_an_error(size: int, tmp_path: Path) -> None:
    wire = head(200, [("content-type", "application/json"), CHUNKED], reason="OK") + b"0\r\n\r\n"
    answer = faults.dribble(wire, size) if size else faults.raw(wire)
    async with ruled(tmp_path, HIDE, answer=answer) as (gateway, _):
        assert (await ask(gateway)).status == 502


async def test_a_condition_is_on_the_requests_body(tmp_path: Path) -> None:
    rule = TransformRule(
        "tools",
        when=(Condition("present", "/tools"),),
        request=(Edit("set", "x", "1"),),
        headers=HeaderRule((("x-tools", Secret("1")),)),
        response_headers=HeaderRule((("x-tools", Secret("yes")),)),
    )
    async with ruled(tmp_path, rule) as (gateway, upstream):
        without, having = await ask(gateway), await ask(gateway, tools=[{}])
        assert [json.loads(request.body).get("x") for request in upstream.requests] == [None, 1]
        assert [dict(request.headers).get("x-tools") for request in upstream.requests] == [None, "1"]
        assert (without.header("x-tools"), having.header("x-tools")) == (None, "yes")


@pytest.mark.parametrize("raw", [b"[]", b'"x"', gzip.compress(b"{}")])
@pytest.mark.parametrize("strict", [False, True])
async def test_a_body_that_is_no_object_passes_unless_the_rule_is_strict(
    strict: bool, raw: bytes, tmp_path: Path
) -> None:
    rule = TransformRule("r", request=(Edit("set", "x", "1"),), strict=strict)
    headers = [*JSON, *([("Content-Encoding", "x-own")] if raw[:1] == b"\x1f" else [])]
    async with ruled(tmp_path, rule) as (gateway, upstream):
        answer = await ask(gateway, headers=headers, raw=raw)
        if strict:
            assert (answer.status, answer.json()["error"]["code"]) == (400, "not_transformable")
        else:
            assert upstream.requests[0].body == raw


@pytest.mark.parametrize("raw", [b'{"model":"demo","seed":1,"seed":2}', b'{"model":"demo","Seed":1}'])
async def test_a_member_that_servers_read_differently_is_refused(raw: bytes, tmp_path: Path) -> None:
    rule = TransformRule("r", request=(Edit("remove", "seed"),))
    async with ruled(tmp_path, rule) as (gateway, upstream):
        answer = await ask(gateway, raw=raw)
        assert answer.status == 400
        assert "seed" in answer.json()["error"]["message"]
        assert not upstream.requests


async def test_principals_whom_no_rule_concerns_stay_on_the_fast_path(tmp_path: Path) -> None:
    rule = TransformRule("r", models=("other",), request=(Edit("set", "x", "1"),))
    async with ruled(tmp_path, rule) as (gateway, upstream), Downstream(gateway.url) as client:
        for _ in range(5):
            await client.send(request_bytes("a", "POST", CHAT, json.dumps(body_of()).encode(), JSON))
            await client.answer()
        assert gateway.plane.fastpath.native.served()
        served = gateway.plane.fastpath.native.served()
        for _ in range(5):
            await client.send(request_bytes("a", "POST", CHAT, json.dumps(body_of(model="other")).encode(), JSON))
            await client.answer()
        assert gateway.plane.fastpath.native.served() == served
        assert json.loads(upstream.requests[-1].body)["x"] == 1


class Toy(Translating):
    """Translates chat completions to a dialect in which everything has another name."""

    def request(self, x: Exchange) -> None:
        """Send the last message."""
        x.send_body = json.dumps({"ask": json.loads(self.source(x))["messages"][-1]["content"]}).encode()
        x.head_edits = HeadEdits("/toys", [("toy-version", "1"), ("x-both", "adapter")])

    def answer(self, x: Exchange, body: bytes) -> bytes:
        """Translate a document."""
        return json.dumps({"choices": [{"message": {"content": json.loads(body)["said"]}}]}).encode()


async def test_rules_apply_behind_the_translation_of_requests_and_of_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "toy", Kind(name="toy", precedence=9, dialects=("toy",)))
    monkeypatch.setitem(ADAPTERS, ("openai.chat", "toy"), Toy)
    rule = TransformRule(
        "r",
        providers=("p",),
        request=(Edit("rename", "ask", "question"),),
        headers=HeaderRule((("x-both", Secret("rule")),)),
        response=(Edit("set", "/choices/0/message/role", '"assistant"'), Edit("remove", "said")),
    )
    for size in (0, 3):
        wire = faults.json_bytes({"said": "hello"})
        answer = faults.dribble(wire, size) if size else faults.raw(wire)
        async with ruled(tmp_path, rule, answer=answer, provider={"kind": "toy"}) as (gateway, upstream):
            answered = await ask(gateway)
            (request,) = upstream.requests
            assert (request.target, request.body) == ("/toys", b'{"question": "hi"}')
            assert dict(request.headers)["x-both"] == "rule"
            assert answered.json() == {"choices": [{"message": {"content": "hello", "role": "assistant"}}]}
            assert answered.header("content-type") == "application/json"
        (tmp_path / "access.log").unlink()
