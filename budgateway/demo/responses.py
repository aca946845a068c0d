"""The answer of `/v1/responses`, whole and streamed with its typed events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from budgateway.demo import model
from budgateway.demo.chat import text_of


class ResponsesAnswer:
    """A response: a message, or function calls when a tool matches the question or is required."""

    def __init__(self, wish: dict[str, Any], identity: str, created: int) -> None:
        self._identity = identity
        items = wish["input"] if isinstance(wish["input"], list) else [{"role": "user", "content": wish["input"]}]
        texts = [text_of(item.get("content", item.get("output"))) for item in items]
        question = texts[-1]
        asked = items[-1].get("role") == "user"
        tools = [tool for tool in wish.get("tools") or [] if tool["type"] == "function"]
        calls = model.tool_calls(question, tools, wish.get("tool_choice") or "auto") if asked else []
        self._said = model.answer(question, max_tokens=wish.get("max_output_tokens"))
        tokens_in = sum(len(model.tokens_of(text)) + 3 for text in [wish.get("instructions") or "", *texts])
        tokens_out = sum(len(model.tokens_of(call.arguments)) for call in calls) if calls else len(self._said.tokens)
        cut = not calls and self._said.finish_reason == "length"
        self._calls = calls
        self._frame: dict[str, Any] = {
            "id": f"resp_{identity}",
            "object": "response",
            "created_at": created,
            "status": "incomplete" if cut else "completed",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": wish.get("instructions"),
            "max_output_tokens": wish.get("max_output_tokens"),
            "metadata": wish.get("metadata") or {},
            "model": wish["model"],
            "output": [],
            "parallel_tool_calls": True,
            "temperature": wish.get("temperature", 1.0),
            "tool_choice": wish.get("tool_choice") or "auto",
            "tools": wish.get("tools") or [],
            "top_p": wish.get("top_p", 1.0),
        }
        self._usage = {
            "input_tokens": tokens_in,
            "input_tokens_details": {"cached_tokens": model.cached(tokens_in)},
            "output_tokens": tokens_out,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens_in + tokens_out,
        }

    def whole(self) -> dict[str, Any]:
        """Return the response in one piece."""
        return self._frame | {"output": self._items(), "usage": self._usage}

    async def events(self, delay_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the response as its typed events, numbered from 0."""
        for number, (kind, body) in enumerate(self._steps()):
            if kind.endswith(".delta"):
                await asyncio.sleep(delay_s)
            data = json.dumps(
                {"type": kind, "sequence_number": number} | body, separators=(",", ":"), ensure_ascii=False
            )
            yield f"event: {kind}\ndata: {data}\n\n".encode("utf-8", "backslashreplace")

    def _steps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        begun = self._frame | {"status": "in_progress", "incomplete_details": None, "usage": None}
        yield "response.created", {"response": begun}
        yield "response.in_progress", {"response": begun}
        for index, item in enumerate(self._items()):
            at = {"item_id": item["id"], "output_index": index}
            if item["type"] == "message":
                yield "response.output_item.added", at | {"item": item | {"status": "in_progress", "content": []}}
                yield from self._text_steps(at | {"content_index": 0})
            else:
                yield "response.output_item.added", at | {"item": item | {"status": "in_progress", "arguments": ""}}
                for piece in self._calls[index].pieces:
                    yield "response.function_call_arguments.delta", at | {"delta": piece}
                done = {"name": item["name"], "arguments": item["arguments"]}
                yield "response.function_call_arguments.done", at | done
            yield "response.output_item.done", at | {"item": item}
        yield f"response.{self._frame['status']}", {"response": self.whole()}

    def _text_steps(self, at: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield "response.content_part.added", at | {"part": empty}
        for token in self._said.tokens:
            yield "response.output_text.delta", at | {"delta": token, "logprobs": []}
        yield "response.output_text.done", at | {"text": self._said.text, "logprobs": []}
        yield "response.content_part.done", at | {"part": empty | {"text": self._said.text}}

    def _items(self) -> list[dict[str, Any]]:
        if self._calls:
            return [
                {
                    "id": f"fc_{self._identity}{index}",
                    "type": "function_call",
                    "status": "completed",
                    "call_id": f"call_{self._identity}{index}",
                    "name": call.name,
                    "arguments": call.arguments,
                }
                for index, call in enumerate(self._calls)
            ]
        part = {"type": "output_text", "text": self._said.text, "annotations": [], "logprobs": []}
        status = self._frame["status"]
        return [
            {"id": f"msg_{self._identity}", "type": "message", "status": status, "role": "assistant", "content": [part]}
        ]
