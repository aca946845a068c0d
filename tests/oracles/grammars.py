"""The grammars of dialects' streams: what every stream that the gateway writes obeys, checked in plain Python."""

from __future__ import annotations

import json
from typing import Any


def events_of(stream: bytes) -> list[tuple[str, Any]]:
    """The events of a stream: name and data, which is JSON except for `[DONE]`."""
    assert stream == b"" or stream.endswith(b"\n\n")
    events = []
    for event in stream.decode().split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in event.split("\n"))
        assert set(lines) <= {"event", "data"}, event
        data = lines["data"]
        events.append((lines.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return events


def messages(stream: bytes) -> dict[str, Any]:
    """Check a stream of the Messages API, and return its message. One that ends with an error has no more grammar."""
    events = events_of(stream)
    assert all(name == data["type"] for name, data in events)
    names = [name for name, _ in events]
    message: dict[str, Any] = {}
    blocks: list[dict[str, Any]] = []
    open_at: int | None = None
    for place, (name, data) in enumerate(events):
        match name:
            case "message_start":
                assert place == 0
                message = data["message"]
                assert message["content"] == []
                assert message["stop_reason"] is None
                assert set(message) == {
                    "id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"
                }  # fmt: skip
                assert message["usage"]["output_tokens"] == 0
            case "content_block_start":
                assert open_at is None
                open_at = data["index"]
                assert open_at == len(blocks)
                blocks.append({**data["content_block"], "json": ""})
            case "content_block_delta":
                assert data["index"] == open_at
                block, delta = blocks[-1], data["delta"]
                match block["type"], delta["type"]:
                    case "text", "text_delta":
                        block["text"] += delta["text"]
                    case "thinking", "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "thinking", "signature_delta":
                        block["signature"] += delta["signature"]
                    case "tool_use", "input_json_delta":
                        assert delta["partial_json"]
                        block["json"] += delta["partial_json"]
                    case other:
                        raise AssertionError(other)
            case "content_block_stop":
                assert data["index"] == open_at
                open_at = None
            case "message_delta":
                assert open_at is None
                assert names[place + 1 :] == ["message_stop"]
                message |= data["delta"]
                message["usage"] |= data["usage"]
            case "message_stop":
                assert names[place - 1] == "message_delta"
                assert place == len(names) - 1
            case "error":
                assert place == len(names) - 1
                return {}
            case other:
                raise AssertionError(other)
    assert names[-1] == "message_stop"
    cut = message["stop_reason"] in ("max_tokens", "model_context_window_exceeded", "refusal")
    for block in blocks:
        text = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = {} if cut and not is_object(text) else json.loads(text or "{}")
            assert isinstance(block["input"], dict)
            assert block["id"]
            assert block["name"]
        if block["type"] == "thinking":
            assert block["signature"]
    has_calls = any(block["type"] == "tool_use" for block in blocks)
    assert message["stop_reason"] is not None
    assert (message["stop_reason"] == "tool_use") == (has_calls and not cut)
    assert blocks
    return message | {"content": blocks}


def is_object(text: str) -> bool:
    """True for the text of a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def chat(stream: bytes) -> dict[str, Any]:
    """Check a stream of the Chat Completions API, and return what it says."""
    events = [data for _, data in events_of(stream)]
    if "error" in events[-1]:
        return {}
    assert events[-1] == "[DONE]"
    *chunks, _ = events
    usage = None
    if chunks[-1]["choices"] == []:
        usage = chunks.pop()["usage"]
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    said: dict[str, Any] = {"content": "", "reasoning_content": "", "refusal": "", "tool_calls": [], "usage": usage}
    for place, chunk in enumerate(chunks):
        assert "usage" not in chunk
        (choice,) = chunk["choices"]
        delta = choice["delta"]
        assert choice["index"] == 0
        assert ("role" in delta) == (place == 0)
        assert (choice["finish_reason"] is not None) == (place == len(chunks) - 1)
        for name in ("content", "reasoning_content", "refusal"):
            said[name] += delta.get(name, "")
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(said["tool_calls"])
                said["tool_calls"].append({"id": call["id"], **call["function"]})
            else:
                assert set(call) == {"index", "function"}
                said["tool_calls"][call["index"]]["arguments"] += call["function"]["arguments"]
    said["finish_reason"] = chunks[-1]["choices"][0]["finish_reason"]
    if said["finish_reason"] not in ("length", "content_filter"):
        assert (said["finish_reason"] == "tool_calls") == bool(said["tool_calls"])
        assert all(is_object(call["arguments"] or "{}") for call in said["tool_calls"])
    return said


def responses(stream: bytes) -> dict[str, Any]:
    """Check a stream of the Responses API, and return its response."""
    events = events_of(stream)
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert all(name == data["type"] for name, data in events)
    assert [name for name, _ in events[:2]] == ["response.created", "response.in_progress"]
    last, end = events[-1]
    if last == "response.failed":
        return {}
    texts: dict[str, str] = {}
    done: dict[int, Any] = {}
    added: dict[int, Any] = {}
    for name, data in events[2:-1]:
        if name == "response.output_item.added":
            assert data["output_index"] == len(added)
            added[data["output_index"]] = data["item"]
            texts[data["item"]["id"]] = ""
            continue
        index = data["output_index"]
        assert index in added
        assert index not in done
        if name == "response.output_item.done":
            assert data["item"]["id"] == added[index]["id"]
            done[index] = data["item"]
            continue
        assert data["item_id"] == added[index]["id"]
        if name.endswith(".delta"):
            assert isinstance(data["delta"], str)
            texts[data["item_id"]] += data["delta"]
        elif name.endswith(("part.added", "part.done")):
            assert data["part"]["type"]
        else:
            assert name.endswith(".done"), name
            text = data.get("text", data.get("refusal", data.get("arguments", data.get("input"))))
            assert text == texts[data["item_id"]] or (text == "{}" and texts[data["item_id"]] == "")
    response: dict[str, Any] = end["response"]
    assert last == f"response.{response['status']}"
    assert response["output"] == [done[index] for index in range(len(added))]
    assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + response["usage"]["output_tokens"]
    return response


GRAMMARS = {"anthropic.messages": messages, "openai.chat": chat, "openai.responses": responses}
