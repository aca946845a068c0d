"""Attempts in several dialects: fallbacks, retries, hedges and mirrors of translated requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from integration.dialects.dialogues import HELLO, deltas, document, sent, streamed
from integration.inside import inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.kinds import KINDS, Kind
from budgateway.native import GAUGE_MIRRORS_SKIPPED
from budgateway.records import Fallback, Hedge, Mirror, Retries

pytestmark = pytest.mark.integration

MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "from claude"}], "usage": {"input_tokens": 3, "output_tokens": 2},
}  # fmt: skip
ON_ERROR = {"retries": Retries(fallbacks=(Fallback("/other"),), fallback_on=("error", "5xx"))}


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have kinds of one dialect each."""
    monkeypatch.setitem(KINDS, "claude", Kind(name="claude", precedence=9, dialects=("anthropic.messages",)))
    monkeypatch.setitem(KINDS, "chat", Kind(name="chat", precedence=9, dialects=("openai.chat",)))


async def test_a_chat_falls_back_to_messages(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.status(500)) as first,
        FaultyUpstream(faults.raw(faults.json_bytes(MESSAGE))) as other,
        inside(
            first.url, tmp_path, path="/v1/*", route=ON_ERROR, beside={"/other": other.url}, kinds={"/other": "claude"}
        ) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=20) as client,
    ):
        answer = await client.chat.completions.create(model="demo", messages=HELLO)
        assert answer.choices[0].message.content == "from claude"
        assert first.requests[0].target == "/v1/chat/completions"
        assert other.requests[0].target == "/v1/messages"
        # One that Messages cannot represent stays with the first one's answer.
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="demo", messages=HELLO, n=2)
        assert len(other.requests) == 1
        _, line = await gateway.lines(2)
        assert line["status"] == 500


async def test_messages_fall_back_from_chat_to_an_api_of_their_own(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.status(500)) as first,
        FaultyUpstream(faults.raw(faults.json_bytes(MESSAGE))) as other,
        inside(
            first.url, tmp_path, path="/v1/*", route=ON_ERROR, beside={"/other": other.url}, kinds={"/other": "claude"}
        ) as gateway,
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", max_retries=0, timeout=20) as client,
    ):
        message: Any = await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
        assert (message.content[0].text, message.model) == ("from claude", "claude")
        body = {"max_tokens": 9, "messages": HELLO, "model": "demo"}
        assert json.loads(other.requests[0].body) == body
        assert dict(other.requests[0].headers).get("accept") == "application/json"
        # What chat cannot represent goes to the one that can.
        tools: Any = [{"type": "web_search_20250305", "name": "web_search"}]
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.create(model="demo", max_tokens=9, messages=HELLO, tools=tools)


async def test_a_broken_stream_is_asked_for_elsewhere_before_its_first_event(tmp_path: Path) -> None:
    good = sent(streamed(deltas({"content": "hi"})), 0)
    wire = streamed(deltas({"content": "hi"}))
    for bad in (faults.cut(wire, 20), faults.status(502), faults.raw(faults.json_bytes({"error": {"message": "no"}}))):
        async with (
            FaultyUpstream(bad) as one,
            FaultyUpstream(good) as two,
            inside([one.url, two.url], tmp_path, path="/v1/*") as gateway,
            anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", max_retries=0, timeout=20) as client,
        ):
            for _ in range(2):
                async with client.messages.stream(model="demo", max_tokens=9, messages=HELLO) as stream:
                    assert await stream.get_final_text() == "hi"
            assert one.requests
            assert two.requests


async def test_a_hedge_is_translated(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.silent()) as one,
        FaultyUpstream(sent(document({"content": "hi"}), 0)) as two,
        inside(
            [one.url, two.url], tmp_path, path="/v1/*", route={"retries": Retries(hedge=Hedge(after_s=0.02))}
        ) as gateway,
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", max_retries=0, timeout=20) as client,
    ):
        for _ in range(2):
            message: Any = await client.messages.create(model="demo", max_tokens=9, messages=HELLO)
            assert message.content[0].text == "hi"
        assert one.requests


async def test_mirrors_and_the_fast_path(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(sent(document({"content": "hi"}), 0)) as first,
        FaultyUpstream(faults.raw(faults.json_bytes(MESSAGE))) as other,
        inside(
            first.url,
            tmp_path,
            path="/v1/*",
            route={"mirror": Mirror("/other")},
            beside={"/other": other.url},
            kinds={"/other": "claude"},
        ) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=20) as client,
    ):
        await client.chat.completions.create(model="demo", messages=HELLO)
        await gateway.until(lambda: bool(other.requests))
        assert other.requests[0].target == "/v1/messages"
        # A copy that Messages cannot represent is skipped.
        await client.chat.completions.create(model="demo", messages=HELLO, n=2)
        await gateway.until(lambda: gateway.gauge(GAUGE_MIRRORS_SKIPPED) == 1)
        assert len(other.requests) == 1
    async with (
        FaultyUpstream(sent(document({"content": "hi"}), 0)) as upstream,
        inside(upstream.url, tmp_path, path="/v1/*") as gateway,
        anthropic.AsyncAnthropic(base_url=gateway.url, api_key="any", max_retries=0, timeout=20) as claude,
    ):
        for number in range(1, 5):
            await claude.messages.create(model="demo", max_tokens=9, messages=HELLO)
            assert len(upstream.requests) == number
        assert gateway.plane.fastpath is not None
        assert not gateway.plane.fastpath.native.served()
