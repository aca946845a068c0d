"""Chat and text completions, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from budgateway.demo import model

DONE = b"data: [DONE]\n\n"


class ChatAnswer:
    """The answer of `/v1/chat/completions`: text or tool calls, `n` choices, usage. Raises KeyError or TypeError for an
    invalid request."""

    def __init__(self, wish: dict[str, Any], identity: str, created: int) -> None:
        self._head = {"id": identity, "created": created, "model": wish["model"]}
        messages: list[dict[str, Any]] = wish["messages"]
        question = text_of(messages[-1]["content"]) if messages[-1]["role"] == "user" else ""
        self._tokens_in = sum(len(model.tokens_of(text_of(message.get("content")))) + 3 for message in messages)
        functions = [tool["function"] for tool in wish.get("tools") or [] if tool["type"] == "function"]
        # A question gets the tool call, the tool's result gets the text.
        asked = bool(question) or wish.get("tool_choice") == "required"
        self._calls = model.tool_calls(question, functions, wish.get("tool_choice") or "auto") if asked else []
        self._choices = [
            model.answer(
                question or text_of(messages[-1].get("content")),
                variant=variant,
                stop=stops_of(wish),
                max_tokens=wish.get("max_completion_tokens") or wish.get("max_tokens"),
            )
            for variant in range(model.choices_of(wish))
        ]
        self._include_usage = bool((wish.get("stream_options") or {}).get("include_usage"))

    def whole(self) -> dict[str, Any]:
        """Return the answer in one piece."""
        if self._calls:
            calls = [self._call(index, call) for index, call in enumerate(self._calls)]
            message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": calls}
            choices = [self._choice(index, "message", message, "tool_calls") for index in range(len(self._choices))]
        else:
            choices = [
                self._choice(
                    index, "message", {"role": "assistant", "content": said.text, "refusal": None}, said.finish_reason
                )
                for index, said in enumerate(self._choices)
            ]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": self._usage()}

    async def events(self, delay_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the answer as server-sent events, one token each."""
        for index in range(len(self._choices)):
            yield self._event(
                [self._choice(index, "delta", {"role": "assistant", "content": None if self._calls else ""})]
            )
        for choice in self._call_deltas() if self._calls else self._text_deltas():
            await asyncio.sleep(delay_s)
            yield self._event([choice])
        for index, said in enumerate(self._choices):
            yield self._event([self._choice(index, "delta", {}, "tool_calls" if self._calls else said.finish_reason)])
        if self._include_usage:
            yield self._event([], self._usage())
        yield DONE

    def _text_deltas(self) -> Iterator[dict[str, Any]]:
        """Yield the tokens of all choices, interleaved as engines send them."""
        for position in range(max(len(said.tokens) for said in self._choices)):
            for index, said in enumerate(self._choices):
                if position < len(said.tokens):
                    yield self._choice(index, "delta", {"content": said.tokens[position]})

    def _call_deltas(self) -> Iterator[dict[str, Any]]:
        """Yield the parts of all calls, interleaved: a client that merges them by position instead of by index fails
        here, not in production."""
        for choice in range(len(self._choices)):
            for index, call in enumerate(self._calls):
                opening = self._call(index, model.ToolCall(call.name, "")) | {"index": index}
                yield self._choice(choice, "delta", {"tool_calls": [opening]})
            pieces = [call.pieces for call in self._calls]
            for position in range(max(map(len, pieces))):
                for index, parts in enumerate(pieces):
                    if position < len(parts):
                        delta = {"index": index, "function": {"arguments": parts[position]}}
                        yield self._choice(choice, "delta", {"tool_calls": [delta]})

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        body = self._head | {"object": "chat.completion.chunk", "choices": choices}
        return event(body | {"usage": usage} if self._include_usage else body)

    def _choice(self, index: int, key: str, value: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": index, key: value, "logprobs": None, "finish_reason": finish_reason}

    def _call(self, index: int, call: model.ToolCall) -> dict[str, Any]:
        identity = f"call_{self._head['id'][-20:]}{index}"
        return {"id": identity, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

    def _usage(self) -> dict[str, Any]:
        if self._calls:
            tokens = sum(len(model.tokens_of(call.name + call.arguments)) for call in self._calls) * len(self._choices)
        else:
            tokens = sum(len(said.tokens) for said in self._choices)
        return model.usage(self._tokens_in, tokens)


class TextAnswer:
    """The answer of `/v1/completions`: one choice for each prompt and each `n`."""

    def __init__(self, wish: dict[str, Any], identity: str, created: int) -> None:
        self._head = {"id": identity, "object": "text_completion", "created": created, "model": wish["model"]}
        given = wish["prompt"]
        prompts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        self._tokens_in = sum(len(model.tokens_of(str(prompt))) for prompt in prompts)
        self._choices = [
            model.answer(str(prompt), variant=variant, stop=stops_of(wish), max_tokens=wish.get("max_tokens"))
            for prompt in prompts
            for variant in range(model.choices_of(wish))
        ]
        self._include_usage = bool((wish.get("stream_options") or {}).get("include_usage"))

    def whole(self) -> dict[str, Any]:
        """Return the answer in one piece."""
        choices = [self._choice(index, said.text, said.finish_reason) for index, said in enumerate(self._choices)]
        return self._head | {"choices": choices, "usage": self._usage()}

    async def events(self, delay_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the answer as server-sent events, one token each."""
        for index, said in enumerate(self._choices):
            for position, token in enumerate(said.tokens):
                await asyncio.sleep(delay_s)
                last = position == len(said.tokens) - 1
                yield self._event([self._choice(index, token, said.finish_reason if last else None)])
        if self._include_usage:
            yield self._event([], self._usage())
        yield DONE

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        body = self._head | {"choices": choices}
        return event(body | {"usage": usage} if self._include_usage else body)

    def _choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def _usage(self) -> dict[str, Any]:
        return model.usage(self._tokens_in, sum(len(said.tokens) for said in self._choices))


def event(body: dict[str, Any]) -> bytes:
    """Format one `data:` event."""
    return b"data: %b\n\n" % json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )


def text_of(content: object) -> str:
    """Return a message's text: a string, or the text parts of a list; images and audio have none."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)


def stops_of(wish: dict[str, Any]) -> list[str]:
    """Return the request's stop sequences; `stop` is one of them or a list."""
    stop = wish.get("stop") or []
    return [stop] if isinstance(stop, str) else list(stop)
