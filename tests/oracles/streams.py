"""Oracle of response streams, simple and slow: whole events and json.loads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Usage = tuple[int, int, int, int]
Report = dict[str, int | None]


def lines(stream: str) -> list[tuple[int, str]]:
    """(offset, text) of every complete line."""
    found = [(match.start(), match.group()) for match in re.finditer(r"[^\r\n]*(?:\r\n|\r|\n)", stream)]
    return [(at, text.rstrip("\r\n")) for at, text in found]


def events(stream: str) -> Iterator[tuple[str, str, list[int]]]:
    """(event field, data, offset in the stream of every character of the data) of each event that has data."""
    name, data, connection_count = "", None, []
    for number, (at, line) in enumerate(lines(stream)):
        if number == 0 and line.startswith("\ufeff"):
            at, line = at + 1, line[1:]
        if not line:
            if data is not None:
                yield name, data, connection_count
            name, data, connection_count = "", None, []
            continue
        field, _, value = line.partition(":")
        start = at + len(line) - len(value)
        if value.startswith(" "):
            value, start = value[1:], start + 1
        if field == "data":
            if data is not None:
                data += "\n"
                connection_count.append(-1)
            data = (data or "") + value
            connection_count.extend(range(start, start + len(value)))
        elif field == "event":
            name = value


def without_usage(stream: bytes) -> bytes:
    """The stream without the events that hold its usage and nothing else, from their first field to their blank line."""
    kept, event, begun = "", "", False
    pattern = r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$"
    for line in re.findall(pattern, stream.decode(errors="surrogateescape")):
        text = line.rstrip("\r\n")
        begun = begun or (text not in ("", "\ufeff") and not text.startswith(":"))
        if not begun:
            kept += line
            continue
        event += line
        if not text:
            kept += "" if any(is_usage(name, loads(data)) for name, data, _ in events(event)) else event
            event, begun = "", False
    return (kept + event).encode(errors="surrogateescape")


def is_usage(name: str, value: Any) -> bool:
    """True for the event that OpenAI's `include_usage` adds to a stream."""
    is_told = isinstance(member(value, "usage"), dict) and member(value, "choices") == []
    return is_told and member(value, "error") is None and name != "error"


def loads(text: str) -> Any:
    """The value, or None for what is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def member(value: Any, *path: str) -> Any:
    """The member at the end of a path, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def count(value: Any) -> int | None:
    """A number of tokens; Cohere writes 7.0."""
    if type(value) is int and value >= 0:
        return value
    return int(value) if type(value) is float and 0 <= value < 9e15 else None


def first(*values: Any) -> Any:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def report(usage: Any) -> Report | None:
    """The counts of a `usage` object."""
    found = {
        "in": first(count(member(usage, "prompt_tokens")), count(member(usage, "input_tokens"))),
        "out": first(count(member(usage, "completion_tokens")), count(member(usage, "output_tokens"))),
        "cached": first(
            count(member(usage, "prompt_tokens_details", "cached_tokens")),
            count(member(usage, "input_tokens_details", "cached_tokens")),
        ),
        "read": count(member(usage, "cache_read_input_tokens")),
        "creation": count(member(usage, "cache_creation_input_tokens")),
        "reasoning": first(
            count(member(usage, "completion_tokens_details", "reasoning_tokens")),
            count(member(usage, "output_tokens_details", "reasoning_tokens")),
        ),
    }
    if found["in"] is None and found["out"] is None:
        found["in"] = count(member(usage, "total_tokens"))
    if found["in"] is None and found["out"] is None:
        for key in ("tokens", "billed_units"):
            inner = {"in": count(member(usage, key, "input_tokens")), "out": count(member(usage, key, "output_tokens"))}
            if inner != {"in": None, "out": None}:
                return {**dict.fromkeys(found), **inner}
        return None
    return found


def gemini(metadata: Any) -> Report | None:
    """The counts of a `usageMetadata` object."""
    thoughts, candidates = (
        count(member(metadata, "thoughtsTokenCount")),
        count(member(metadata, "candidatesTokenCount")),
    )
    out = None if thoughts is None and candidates is None else (thoughts or 0) + (candidates or 0)
    prompt = count(member(metadata, "promptTokenCount"))
    if prompt is None and out is None:
        prompt = count(member(metadata, "totalTokenCount"))
    if prompt is None and out is None:
        return None
    cached = count(member(metadata, "cachedContentTokenCount"))
    return {"in": prompt, "out": out, "cached": cached, "read": None, "creation": None, "reasoning": thoughts}


def total(found: Report) -> Usage:
    """(in, out, cached, reasoning); Anthropic counts cached input apart."""
    read = found["read"] or 0
    cached = read if found["cached"] is None else found["cached"]
    tokens_in = (found["in"] or 0) + read + (found["creation"] or 0)
    return tokens_in, found["out"] or 0, cached, found["reasoning"] or 0


def scan(stream: bytes) -> tuple[Usage | None, bool, bool, int]:
    """(usage, done, error, events) of an event stream."""
    known: Report | None = None
    done = error = False
    number = 0
    for name, data, _ in events(stream.decode(errors="surrogateescape")):
        number += 1
        error |= name == "error"
        done |= data.strip(" \t\r\n\f") == "[DONE]"
        event = loads(data)
        kind = member(event, "type")
        error |= member(event, "error") is not None or kind in ("error", "response.failed")
        done |= kind in ("message_stop", "message-end", "response.completed", "response.failed", "response.incomplete")
        connection_count = [
            ("usage",),
            ("message", "usage"),
            ("response", "usage"),
            ("x_groq", "usage"),
            ("delta", "usage"),
        ]
        reports = [report(member(event, *path)) for path in connection_count]
        found = first(*reports, gemini(member(event, "usageMetadata")), report(member(event, "meta")))
        if found and known and kind in ("message_start", "message_delta"):
            known = {key: found[key] or first(known[key], found[key]) for key in found}
        elif found:
            known = found
    return known and total(known), done, error, number


def members(text: str, at: int = 0) -> Iterator[tuple[str, int, int]]:
    """(key, start, end) of the members of the object at `at`, which is known to be JSON."""
    decoder = json.JSONDecoder()

    def skip(at: int, what: str = " \t\r\n") -> int:
        while text[at] in what:
            at += 1
        return at

    at = skip(at) + 1
    while text[skip(at)] != "}":
        key, at = decoder.raw_decode(text, skip(at, " \t\r\n,"))
        start = skip(at, " \t\r\n:")
        _, at = decoder.raw_decode(text, start)
        yield key, start, at
        at = skip(at)


def model_spans(text: str) -> list[tuple[int, int]]:
    """Return the spans of an object's model names: its own, its `message`'s, its `response`'s."""
    if not isinstance(loads(text), dict):
        return []
    spans = []
    for key, start, end in members(text):
        if key == "model":
            spans.append((start, end))
        elif key in ("message", "response") and text[start] == "{":
            spans += [(a, b) for inner, a, b in members(text, start) if inner == "model"]
    return sorted((start, end) for start, end in spans if text[start] == '"')


def rewrite(stream: bytes, model: str, sse: bool = True) -> bytes:
    """The stream with every model name replaced, everything else as it came."""
    text = stream.decode(errors="surrogateescape")
    edits = []
    if sse:
        for _, data, connection_count in events(text):
            edits += [(connection_count[start], connection_count[end - 1] + 1) for start, end in model_spans(data)]
    else:
        edits = model_spans(text)
    for start, end in reversed(edits):
        if json.loads(text[start:end]) != model:
            text = text[:start] + json.dumps(model, ensure_ascii=False) + text[end:]
    return text.encode(errors="surrogateescape")
