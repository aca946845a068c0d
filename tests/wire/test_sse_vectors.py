"""Other parsers' event streams and their events: the framer counts the same, however the bytes are cut."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from corpora import ABSENT, FOLDER

from budgateway._native import ModelRewriter, UsageScanner

VECTORS = FOLDER / "sse" / "vectors.jsonl"
UTF8 = FOLDER / "utf8-decoder" / "utf8tests.bin"
# The reference strips a byte order mark that was encoded twice; WHATWG's decoder does not, and so the first field is unknown.
ENCODED_TWICE = {"eventsource-parser/getLeadingBomFixtureStream", "eventsource-parser/getMultiBomFixtureStream"}
CASES: list[dict[str, Any]] = (
    [json.loads(line) for line in VECTORS.read_bytes().splitlines()] if VECTORS.exists() else []
)


@pytest.mark.skipif(not CASES, reason=ABSENT)
def test_corpus_is_whole() -> None:
    assert len(CASES) == 110


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_events_are_counted(case: dict[str, Any]) -> None:
    chunks = [base64.b64decode(chunk) for chunk in case["chunks_b64"]]
    stream = b"".join(chunks)
    expected = len(case["expected_events"]) - (case["id"] in ENCODED_TWICE)
    for cut in (chunks, [stream], [bytes([byte]) for byte in stream]):
        scanner, rewriter = UsageScanner(sse=True), ModelRewriter(sse=True, model="m")
        assert sum(map(scanner.feed, cut)) == expected
        assert b"".join(map(rewriter.feed, cut)) + rewriter.finish() == stream


@pytest.mark.skipif(not UTF8.exists(), reason=ABSENT)
@pytest.mark.parametrize("sse", [True, False])
def test_bytes_that_are_no_text_pass(sse: bool) -> None:
    text = UTF8.read_bytes()
    for line in [*text.split(b"\n"), text]:
        stream = b'data: {"model":"x","text":"' + line + b'"}\n\n' if sse else b'{"text":"' + line + b'"}'
        for size in (1, 3, len(stream)):
            cut = [stream[at : at + size] for at in range(0, len(stream), size)]
            scanner, rewriter = UsageScanner(sse), ModelRewriter(sse, "x")
            for chunk in cut:
                scanner.feed(chunk)
            assert b"".join(map(rewriter.feed, cut)) + rewriter.finish() == stream
            assert scanner.usage is None
