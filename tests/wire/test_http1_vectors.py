"""HTTP/1.1 as two other projects test it: our verdict on every vector, and the same verdict on every prefix."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from corpora import ABSENT, FOLDER, files

from budgateway._native import CHUNKED, KEEP_ALIVE, NO_BODY, ChunkScanner, RequestHead, ResponseHead
from budgateway.errors import BadRequest, GatewayError, UpstreamProtocolError

# What we refuse and a parser for everybody's web may accept (RELIABILITY 3.8, 3.12).
STRICTER = {
    "a header line begins with white space",
    "a header name imitates another with an underscore",
    "a header name is no token",
    "a line of the head does not end in CR LF",
    "a line of the chunked framing does not end in CR LF",
    "a chunk is longer than its size",
    "a chunk size is malformed",
    "a header line is longer than 8 KiB",
    "a response without a body announces one",
    "header host is malformed",
    "header transfer-encoding occurs twice",
    "the head has a control character",
    "the message begins with empty lines",
    "the method is not allowed here",
    "the path has an empty segment",
    "the protocol version is neither HTTP/1.0 nor HTTP/1.1",
    "the request line is malformed",
    "the request target is malformed",
    "the status line is malformed",
    "the target names another host than header host",
    "transfer-encoding is something other than chunked in HTTP/1.1",
}
# What others refuse for reasons that are not the scanner's.
OTHERS_REASON = {
    "llhttp/request/invalid/004": "llhttp has a list of methods",
    "gunicorn/invalid/limit_header_default_01": "their limit is configured to something else",
    "gunicorn/invalid/006": "their limit of a request line is lower",
    "gunicorn/invalid/008": "their limit of a header line is configured",
    "llhttp/response/transfer-encoding/007": "the grammar of chunk extensions is llhttp's business",
    "llhttp/response/transfer-encoding/009": "the grammar of chunk extensions is llhttp's business",
    "llhttp/request/transfer-encoding/009": "the grammar of chunk extensions is llhttp's business",
    "llhttp/request/transfer-encoding/012": "the grammar of chunk extensions is llhttp's business",
}


def vectors() -> list[dict[str, Any]]:
    """All of both corpora but PROXY protocol."""
    paths = files("http1-gunicorn", "vectors.jsonl") + files("http1-llhttp", "vectors.jsonl")
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [vector for vector in found if vector.get("scope") != "proxy_protocol"]


def verdict(raw: bytes, response: bool) -> str:
    """complete, incomplete or what is wrong: of all the messages that `raw` holds."""
    at = 0
    while at < len(raw):
        try:
            head = (ResponseHead if response else RequestHead).parse(raw, at)
            if head is None:
                return "incomplete"
            at += head.size
            if head.flags & NO_BODY:
                pass
            elif head.flags & CHUNKED:
                at = ChunkScanner(response).feed(raw, at)
                if at < 0:
                    return "incomplete"
            elif head.content_length >= 0:
                at += head.content_length
                if at > len(raw):
                    return "incomplete"
            elif response:
                return "complete"
        except GatewayError as error:
            assert type(error) is UpstreamProtocolError if response else isinstance(error, BadRequest)
            return str(error)
        if not head.flags & KEEP_ALIVE and at < len(raw):
            return "bytes after the last message"
    return "complete"


def with_host(raw: bytes) -> bytes:
    """Half of the corpora's requests have no Host; everything else about them is still worth a verdict."""
    start = len(raw) - len(raw.lstrip(b"\r\n"))
    end = raw.find(b"\r\n", start) + 2
    target = raw[start:end].split(b" ")[1]
    host = target.split(b"/")[2].split(b"?")[0] if target.startswith(b"http") else b"a"
    return raw[:end] + b"Host: " + host + b"\r\n" + raw[end:]


VECTORS = vectors()


@pytest.mark.skipif(not VECTORS, reason=ABSENT)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_verdict(vector: dict[str, Any]) -> None:
    raw = base64.b64decode(vector["raw_b64"])
    response = vector.get("kind") == "response"
    ours = verdict(raw, response)
    if vector["expect"] == "reject":
        assert ours != "complete" or vector["id"] in OTHERS_REASON
        return
    if ours == "header host is missing":
        ours = verdict(with_host(raw), response)
    # A pipelined request may lack Host as well; gunicorn and llhttp also stop at an upgrade or a limit we do not know.
    assert ours in STRICTER | {"complete", "incomplete", "header host is missing", "bytes after the last message"}


@pytest.mark.skipif(not VECTORS, reason=ABSENT)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_a_prefix_never_gets_another_verdict(vector: dict[str, Any]) -> None:
    raw = base64.b64decode(vector["raw_b64"])
    parse = ResponseHead.parse if vector.get("kind") == "response" else RequestHead.parse
    if vector["expect"] == "accept" and parse is RequestHead.parse:
        raw = with_host(raw)

    def outcome(data: bytes) -> str | int | None:
        try:
            head = parse(data)
        except GatewayError as error:
            return f"{type(error).__name__}: {error}"
        return head and head.size

    whole = outcome(raw)
    decided = False
    # Of the long ones, every prefix of the first and last bytes: in between nothing but filler arrives.
    ends = (
        range(len(raw))
        if len(raw) < 4096
        else [*range(600), *range(600, len(raw), 97), *range(8100, min(len(raw), 8300))]
    )
    for end in sorted(ends):
        early = outcome(raw[:end])
        assert early in (None, whole), end
        assert not decided or early == whole, end
        decided = early is not None


def test_the_corpora_are_where_this_test_looks() -> None:
    if not FOLDER.is_dir():
        pytest.skip(ABSENT)
    assert len(VECTORS) > 350
