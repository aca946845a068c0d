"""The scanner and the rewriter say and give the same however a response is cut, and what the slow oracle says."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from oracles import streams

from budgateway._native import ModelRewriter, UsageScanner

counts = st.integers(0, 10**6) | st.none() | st.floats(0, 100) | st.text(max_size=2)
names = ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"]
names += ["cache_read_input_tokens", "cache_creation_input_tokens"]
details = st.none() | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), counts)
usages = st.none() | st.dictionaries(st.sampled_from(names), counts).flatmap(
    lambda usage: st.fixed_dictionaries(
        {key: st.just(value) for key, value in usage.items()},
        optional={"prompt_tokens_details": details, "output_tokens_details": details},
    )
)
texts = st.text(max_size=20) | st.sampled_from(
    ['"usage":{"prompt_tokens":1}', '"model":"x"', "[DONE]", "\\", '"', "\n\ndata: x"]
)
models = st.sampled_from(["m", "up/stream", 'ours"', "é", ""]) | st.none()
inner = st.fixed_dictionaries({}, optional={"model": models, "usage": usages, "text": texts})
kinds = ["message_start", "message_delta", "message_stop", "response.completed", "response.failed", "error", "x"]
objects = st.fixed_dictionaries(
    {},
    optional={
        "text": texts,
        "choices": st.lists(inner, max_size=2),
        "usage": usages,
        "model": models,
        "message": inner | texts,
        "response": inner,
        "type": st.sampled_from(kinds),
        "error": st.none() | st.dictionaries(texts, texts, max_size=1),
    },
)


@st.composite
def written(draw: st.DrawFn) -> str:
    value = draw(objects)
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators)


@st.composite
def event_streams(draw: st.DrawFn) -> bytes:
    """Events that are well formed and events that are not, with every line end."""
    out = "\ufeff" if draw(st.booleans()) else ""
    for _ in range(draw(st.integers(0, 5))):
        end = draw(st.sampled_from(["\n", "\r", "\r\n"]))
        lines = draw(
            st.lists(
                st.sampled_from([": comment", "event: error", "event: x", "id: 1", "retry", "junk:data: x"]), max_size=2
            )
        )
        data = draw(written() | st.just("[DONE]") | texts.filter(lambda text: "\n" not in text and "\r" not in text))
        space = draw(st.sampled_from(["", " "]))
        if draw(st.booleans()) and ", " in data:
            first, second = data.split(", ", 1)
            lines += [f"data:{space}{first},", f"data:{space}{second}"]
        else:
            lines.append(f"data:{space}{data}")
        out += "".join(line + end for line in [*lines, draw(st.sampled_from(["", "", "", ": more"]))])
    return out.encode()


@st.composite
def cuts(draw: st.DrawFn, text: bytes) -> list[bytes]:
    connection_count = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    edges = [0, *connection_count, len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def pieces(text: bytes) -> list[bytes]:
    return [text[at : at + 1] for at in range(len(text))]


def outcome(sse: bool, chunks: list[bytes]) -> tuple[Any, ...]:
    scanner, rewriter = UsageScanner(sse), ModelRewriter(sse, 'ours"')
    number = sum(map(scanner.feed, chunks))
    out = b"".join(map(rewriter.feed, chunks)) + rewriter.finish()
    return (scanner.usage, scanner.done, scanner.error, number), out


@given(st.data(), event_streams())
def test_event_streams(data: st.DataObject, stream: bytes) -> None:
    expected = streams.scan(stream), streams.rewrite(stream, 'ours"')
    assert outcome(True, [stream]) == expected
    assert outcome(True, pieces(stream)) == expected
    assert outcome(True, data.draw(cuts(stream))) == expected


@given(st.data(), written())
def test_documents(data: st.DataObject, text: str) -> None:
    document = json.loads(text)
    report = streams.report(document.get("usage"))
    seen = (report and streams.total(report), True, document.get("error") is not None, 0)
    expected = seen, streams.rewrite(text.encode(), 'ours"', sse=False)
    assert outcome(False, [text.encode()]) == expected
    assert outcome(False, pieces(text.encode())) == expected
    assert outcome(False, data.draw(cuts(text.encode()))) == expected


@given(st.data(), st.booleans(), st.binary(max_size=200) | st.text('{}[]":,\\ au\r\ndt', max_size=200).map(str.encode))
def test_garbage_is_the_same_in_every_cut(data: st.DataObject, sse: bool, text: bytes) -> None:
    expected = outcome(sse, [text])
    assert outcome(sse, pieces(text)) == expected
    assert outcome(sse, data.draw(cuts(text))) == expected
