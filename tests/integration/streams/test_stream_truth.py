"""Records of streams are true: whether it is whole, whose fault its end was, when its first token came."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received, chunk, chunked, head, sse

from budgateway.records import Timeouts

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
SPEAKS_ALL = {"kind": "vllm"}  # nothing is translated
JSON = [("Content-Type", "application/json")]
BODY = b'{"model":"demo","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
HEAD = head(200, [faults.EVENT_STREAM, faults.CHUNKED], reason="OK")
MIB = 1 << 20


async def ask(gateway: Inside, path: str = CHAT, body: bytes = BODY) -> Answer:
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes(client.host, "POST", path, body, JSON))
        return await client.answer()


async def line_of(gateway: Inside) -> dict[str, Any]:
    await gateway.at_rest()
    (line,) = await gateway.lines(1)
    return line


def choice(index: int, content: str = "x", finish: object = None, **delta: Any) -> bytes:
    """A chunk of a chat with one choice."""
    of = {"index": index, "delta": {"content": content} | delta, "finish_reason": finish}
    return sse(json.dumps({"object": "chat.completion.chunk", "model": "demo", "choices": [of]}))[0]


def named(kind: str, **members: Any) -> bytes:
    """An event of the dialects that name theirs."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind} | members).encode())


CALL = {"tool_calls": [{"index": 1, "function": {"name": "log", "arguments": {"finish_reason": "stop"}}}]}
CREATED = named("response.created", response={"id": "r"})
IMAGE = "A" * (MIB + MIB // 2)

# Streams without a terminator behind them, and whether they are whole.
ENDS: dict[str, tuple[str, list[bytes], bool]] = {
    "a reason": (CHAT, [choice(0), choice(0, finish="stop")], True),
    "an empty reason": (CHAT, [choice(0), choice(0, finish="")], False),
    "a reason that is a number": (CHAT, [choice(0), choice(0, finish=1)], False),
    "a reason that is an object": (CHAT, [choice(0), choice(0, finish={"finish_reason": "stop"})], False),
    "a reason in a call": (CHAT, [choice(0), choice(0, **CALL)], False),
    "a reason in text": (CHAT, [choice(0), choice(0, '"finish_reason":"stop"')], False),
    "one of two choices": (CHAT, [choice(0), choice(1), choice(0, finish="stop")], False),
    "the other of two choices": (CHAT, [choice(0), choice(1), choice(1, finish="stop")], False),
    "a choice that begins late": (CHAT, [choice(0, finish="stop"), choice(1)], False),
    "both choices": (CHAT, [choice(0), choice(1), choice(1, finish="stop"), choice(0, finish="length")], True),
    "a call's index": (CHAT, [choice(0, **CALL), choice(0, finish="tool_calls")], True),
    "a large chunk": (CHAT, [choice(0), choice(0, IMAGE, "stop")], True),
    "a large chunk without a reason": (CHAT, [choice(0, IMAGE)], False),
    "no message_stop": (MESSAGES, [named("message_start", message={}), named("message_delta", delta={})], False),
    "message_stop": (MESSAGES, [named("message_start", message={}), named("message_stop")], True),
    "response.completed": (RESPONSES, [CREATED, named("response.completed", response={})], True),
    "a large response.completed": (RESPONSES, [CREATED, named("response.completed", response={"x": IMAGE})], True),
    "response.incomplete": (RESPONSES, [CREATED, named("response.incomplete", response={"x": IMAGE})], True),
    "a large event of another kind": (RESPONSES, [CREATED, named("response.image", response={"x": IMAGE})], False),
}  # fmt: skip


@pytest.mark.parametrize("step", [16384, 1, 1 << 30], ids=lambda step: f"by {step}")
@pytest.mark.parametrize("name", ENDS)
async def test_a_stream_is_whole_when_all_of_it_has_ended(name: str, step: int, tmp_path: Path) -> None:
    path, events, is_whole = ENDS[name]
    sent = b"".join(events)
    if step == 1 and len(sent) > MIB:
        step = 60_000  # by the byte it would take minutes

    async def serve(peer: Peer, request: Received) -> None:
        await peer.drip(HEAD + chunked(events), step)

    async with FaultyUpstream(serve) as upstream, inside(upstream.url, tmp_path, provider=SPEAKS_ALL) as gateway:
        answer = await ask(gateway, path)
        line = await line_of(gateway)
    if is_whole:
        assert (answer.is_complete, bytes(answer.body), line["outcome"]) == (True, sent, "complete")
    elif answer.status == 200:
        assert (answer.is_complete, line["outcome"]) == (False, "truncated")
        assert bytes(answer.body[: len(sent)]) == sent
    else:
        # All of it came in the read of its head: nobody has heard of it yet.
        assert (answer.status, line["outcome"]) == (502, "upstream_failed")


async def test_usage_in_an_event_of_any_size_counts(tmp_path: Path) -> None:
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    events = [CREATED, named("response.completed", response={"output": [{"result": IMAGE}], "usage": usage})]
    wire = HEAD + chunked(events)
    async with (
        FaultyUpstream(faults.raw(wire)) as upstream,
        inside(upstream.url, tmp_path, provider=SPEAKS_ALL) as gateway,
    ):
        answer = await ask(gateway, RESPONSES)
        line = await line_of(gateway)
    assert bytes(answer.body) == b"".join(events)
    assert (line["tokens_in"], line["tokens_out"]) == (11, 7)


# ---------------------------------------------------------------- silence


async def test_a_stream_that_is_cut_for_its_silence_speaks_against_no_upstream(tmp_path: Path) -> None:
    """Whoever thinks for longer than the operator lets it has done nothing wrong, and is asked again."""
    events = faults.chat_events("one", "two")
    silent = faults.stall(HEAD + chunk(events[0]) + chunk(events[1]), 1 << 20)
    timeouts = {"chunk_s": 0.3, "first_byte_s": 5.0}
    async with (
        FaultyUpstream(silent) as upstream,
        inside(upstream.url, tmp_path, timeouts=timeouts, provider=SPEAKS_ALL) as gateway,
    ):
        for answer in await asyncio.gather(*(ask(gateway) for _ in range(8))):
            assert (answer.status, answer.is_complete) == (200, False)
            assert b'"upstream_timeout"' in answer.body
        await gateway.at_rest()
        vitals = (
            gateway.plane.snapshot.routes.compiled_routes[0]
            .destinations[0]
            .balancer.selector.look(0, time.monotonic_ns())
        )
        assert (vitals.breaker, vitals.failures, vitals.ejections, vitals.window[1]) == ("closed", 0, 0, 0)
        upstream.script(faults.chat())
        assert (await ask(gateway)).status == 200


async def test_a_model_may_think_for_minutes() -> None:
    assert Timeouts().chunk_s == 300


# ---------------------------------------------------------------- numbers

PREFILL_S = 0.2


class Thinking:
    """A head (and whatever an engine sends with it) at once, the first token a while later."""

    def __init__(self, early: list[bytes], events: list[bytes]) -> None:
        self.early = early
        self.events = events
        self.token_ns = 0

    async def __call__(self, peer: Peer, request: Received) -> None:
        await peer.send(HEAD + b"".join(chunk(event) for event in self.early))
        await asyncio.sleep(PREFILL_S)
        self.token_ns = time.monotonic_ns()
        await peer.send(chunked(self.events))


ROLE, WORD, *REST = faults.chat_events("one", "two")
DELTA = {"type": "text_delta", "text": "x"}
BLOCK = {"type": "text", "text": ""}
FIRST_TOKENS: dict[str, tuple[str, list[bytes], list[bytes]]] = {
    "a head": (CHAT, [], [ROLE, WORD, *REST]),
    "a head and a role": (CHAT, [ROLE], [WORD, *REST]),
    "a comment": (CHAT, [b": hello\n\n"], [ROLE, WORD, *REST]),
    "reasoning": (CHAT, [ROLE], [choice(0, "", reasoning_content="hm"), WORD, *REST]),
    "a call": (CHAT, [ROLE], [choice(0, "", **CALL), choice(0, "", "tool_calls")]),
    "anthropic": (
        MESSAGES,
        [
            named("message_start", message={"usage": {"input_tokens": 1, "output_tokens": 0}}),
            named("content_block_start", index=0, content_block=BLOCK),
            named("ping"),
        ],
        [named("content_block_delta", index=0, delta=DELTA), named("message_stop")],
    ),
    "responses": (
        RESPONSES,
        [CREATED, named("response.output_item.added", item={"type": "message", "content": []})],
        [named("response.output_text.delta", delta="x"), named("response.completed", response={})],
    ),
}


@pytest.mark.parametrize("early", FIRST_TOKENS)
async def test_the_first_token_is_what_the_client_waits_for(early: str, tmp_path: Path) -> None:
    path, first, rest = FIRST_TOKENS[early]
    engine = Thinking(first, rest)
    async with (
        FaultyUpstream(engine) as upstream,
        inside(upstream.url, tmp_path, disclose=True, provider=SPEAKS_ALL) as gateway,
    ):
        answer = await ask(gateway, path)
        line = await line_of(gateway)
    assert (answer.is_complete, line["outcome"]) == (True, "complete")
    assert bytes(answer.body) == b"".join(first + rest)
    assert PREFILL_S * 1000 <= line["ttft_ms"] <= line["duration_ms"]
    # What the engine takes is not ours.
    assert line["overhead_us"] / 1000 <= line["duration_ms"] - PREFILL_S * 1000
    assert int(answer.header("x-budgateway-overhead-us")) <= line["overhead_us"]


async def test_a_stream_that_says_nothing_has_no_first_token(tmp_path: Path) -> None:
    events = [ROLE, choice(0, "", "stop")]
    wire = HEAD + chunked(events)
    async with (
        FaultyUpstream(faults.raw(wire)) as upstream,
        inside(upstream.url, tmp_path, provider=SPEAKS_ALL) as gateway,
    ):
        await ask(gateway)
        line = await line_of(gateway)
    assert (line["outcome"], "ttft_ms" in line) == ("complete", False)


async def test_a_document_that_comes_in_pieces_costs_no_overhead(tmp_path: Path) -> None:
    """Its head is held until its end: meanwhile the engine computes."""
    wire = faults.chat_bytes("x" * 200)

    async def serve(peer: Peer, request: Received) -> None:
        await peer.send(wire[:200])
        await asyncio.sleep(PREFILL_S)
        await peer.send(wire[200:])

    async with FaultyUpstream(serve) as upstream, inside(upstream.url, tmp_path, provider=SPEAKS_ALL) as gateway:
        assert (await ask(gateway)).status == 200
        line = await line_of(gateway)
    assert line["overhead_us"] / 1000 <= line["duration_ms"] - PREFILL_S * 1000
    assert line["ttft_ms"] <= line["duration_ms"] - PREFILL_S * 1000
