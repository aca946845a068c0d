"""350 recorded streams of real providers, each cut in five ways, against the slow oracle."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from corpora import ABSENT, FOLDER
from oracles import streams

from budgateway._native import SCAN_EVENTS, BodyPump, ModelRewriter, UsageScanner


def load(name: str) -> list[dict[str, Any]]:
    path = FOLDER / "llm-streams-cassettes" / name
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


CASES, ERRORS = load("streams.jsonl"), load("errors.jsonl")

pytestmark = pytest.mark.skipif(not CASES, reason=ABSENT)


def chunkings(stream: bytes) -> dict[str, list[bytes]]:
    """The stream whole, in pieces of 1 and 7, cut inside every code point, and with several events a piece."""
    middles = [at for at, byte in enumerate(stream) if byte & 0xC0 == 0x80] or [len(stream) // 2]
    edges = [0, *middles, len(stream)]
    return {
        "whole": [stream],
        "bytes": [stream[at : at + 1] for at in range(len(stream))],
        "sevens": [stream[at : at + 7] for at in range(0, len(stream), 7)],
        "code points": [stream[start:end] for start, end in itertools.pairwise(edges)],
        "coalesced": [stream[at : at + 1499] for at in range(0, len(stream), 1499)],
    }


def test_corpus_is_whole() -> None:
    assert len(CASES) == 350
    seen = [streams.scan(case["sse"].encode()) for case in CASES]
    # The corpus must exercise what the scanner claims, or agreement says nothing.
    assert sum(usage is not None for usage, *_ in seen) > 230
    assert sum(done for _, done, *_ in seen) > 250


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"].split("/")[-1])
def test_stream(case: dict[str, Any]) -> None:
    stream = case["sse"].encode()
    expected = streams.scan(stream)
    renamed = streams.rewrite(stream, 'our/"name"é')
    for cutting, chunks in chunkings(stream).items():
        scanner, rewriter = UsageScanner(sse=True), ModelRewriter(sse=True, model='our/"name"é')
        number = sum(map(scanner.feed, chunks))
        assert (scanner.usage, scanner.done, scanner.error, number) == expected, cutting
        assert b"".join(map(rewriter.feed, chunks)) + rewriter.finish() == renamed, cutting


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"].split("/")[-1])
def test_the_usage_that_is_kept_is_all_that_is_missing(case: dict[str, Any]) -> None:
    stream = case["sse"].encode()
    left = streams.without_usage(stream)
    for cutting, chunks in chunkings(stream).items():
        for model, expected in ((None, left), ("our-name", streams.rewrite(left, "our-name"))):
            pump = BodyPump(False, False, SCAN_EVENTS, model, True)
            assert b"".join(pump.feed(chunk) or b"" for chunk in chunks) + pump.finish() == expected, cutting


def test_the_corpus_has_usage_to_keep() -> None:
    missing = [case for case in CASES if streams.without_usage(case["sse"].encode()) != case["sse"].encode()]
    told = [case for case in CASES if streams.scan(case["sse"].encode())[0] is not None]
    assert len(missing) > 50
    assert len(told) - len(missing) >= 100  # that tell it otherwise


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"].split("/")[-1])
def test_the_same_name_changes_nothing(case: dict[str, Any]) -> None:
    stream = case["sse"].encode()
    names = [streams.loads(data) for _, data, _ in streams.events(case["sse"])]
    found = {
        streams.member(event, *path)
        for event in names
        for path in (["model"], ["message", "model"], ["response", "model"])
    }
    names = [name for name in found if isinstance(name, str)]
    if len(names) == 1:
        rewriter = ModelRewriter(sse=True, model=names[0])
        assert rewriter.feed(stream) + rewriter.finish() == stream


@pytest.mark.parametrize("case", CASES[::5], ids=lambda case: case["id"].split("/")[-1])
def test_events_as_documents(case: dict[str, Any]) -> None:
    """The last event of a stream that is an object, read as a document in pieces."""
    documents = [data for _, data, _ in streams.events(case["sse"]) if isinstance(streams.loads(data), dict)]
    for document in documents[-2:]:
        whole = document.encode()
        outcomes = set()
        for chunks in chunkings(whole).values():
            scanner, rewriter = UsageScanner(sse=False), ModelRewriter(sse=False, model="our-name")
            for chunk in chunks:
                scanner.feed(chunk)
            outcomes.add((scanner.usage, scanner.done, scanner.error))
            assert b"".join(map(rewriter.feed, chunks)) + rewriter.finish() == streams.rewrite(
                whole, "our-name", sse=False
            )
        assert len(outcomes) == 1
        usage = streams.member(streams.loads(document), "usage")
        if report := streams.report(usage):
            assert outcomes.pop()[0] == streams.total(report)


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case["id"].split("/")[-1])
def test_error_bodies(case: dict[str, Any]) -> None:
    body = case["body"].encode()
    scanner = UsageScanner(sse=False)
    for at in range(len(body)):
        scanner.feed(body[at : at + 1])
    document = streams.loads(case["body"])
    assert scanner.error == (streams.member(document, "error") is not None)
    assert scanner.done == isinstance(document, dict | list)
    assert scanner.usage is None
