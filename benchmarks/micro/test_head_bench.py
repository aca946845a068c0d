"""Heads: one scan of a request and of a response, and writing them, beside httptools with a callback a header."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway._native import ChunkScanner, RequestHead, RequestHeadWriter, ResponseHead, ResponseHeadWriter

# What openai-python 1.75 sends: 15 headers.
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.local:8080\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Connection: keep-alive\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
    b"User-Agent: OpenAI/Python 1.75.0\r\nX-Stainless-Lang: python\r\nX-Stainless-OS: Linux\r\nX-Stainless-Arch: x64\r\n"
    b"X-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.11.7\r\n"
    b"Authorization: Bearer sk-0123456789abcdef0123456789abcdef\r\nX-Stainless-Retry-Count: 0\r\n"
    b"x-stainless-read-timeout: 600\r\nContent-Length: 300\r\n\r\n"
)
# What uvicorn under vLLM answers.
RESPONSE = (
    b"HTTP/1.1 200 OK\r\ndate: Tue, 05 Mar 2024 10:00:00 GMT\r\nserver: uvicorn\r\ncontent-length: 400\r\n"
    b"content-type: application/json\r\nx-request-id: 0123456789abcdef\r\n\r\n"
)
CHUNK = b"be\r\n" + b"x" * 190 + b"\r\n"


class Headers:
    """The headers as a Python server collects them from llhttp: a list of pairs."""

    def __init__(self) -> None:
        self.found: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name.lower(), value))


def test_request_parse_native(benchmark: BenchmarkFixture) -> None:
    head = benchmark.pedantic(RequestHead.parse, (REQUEST,), rounds=200, iterations=5000, warmup_rounds=5)
    assert head is not None
    assert head.size == len(REQUEST)


def test_request_parse_httptools(benchmark: BenchmarkFixture) -> None:
    httptools = pytest.importorskip("httptools")

    def parse() -> int:
        headers = Headers()
        httptools.HttpRequestParser(headers).feed_data(REQUEST)
        return len(headers.found)

    assert benchmark.pedantic(parse, rounds=100, iterations=1000, warmup_rounds=5) == 15


def test_request_write_native(benchmark: BenchmarkFixture) -> None:
    head = RequestHead.parse(REQUEST)
    writer = RequestHeadWriter("vllm-1:8000", "/v1", "", [], [("authorization", "Bearer sk-upstream")])
    args = (head, "0123456789ab-00000001", 300)
    written = benchmark.pedantic(writer.write, args, rounds=200, iterations=5000, warmup_rounds=5)
    assert written.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: vllm-1:8000\r\n")


def test_response_parse_native(benchmark: BenchmarkFixture) -> None:
    head = benchmark.pedantic(ResponseHead.parse, (RESPONSE,), rounds=200, iterations=5000, warmup_rounds=5)
    assert head is not None
    assert head.status == 200


def test_response_parse_httptools(benchmark: BenchmarkFixture) -> None:
    httptools = pytest.importorskip("httptools")

    def parse() -> int:
        headers = Headers()
        httptools.HttpResponseParser(headers).feed_data(RESPONSE)
        return len(headers.found)

    assert benchmark.pedantic(parse, rounds=100, iterations=1000, warmup_rounds=5) == 5


def test_response_write_native(benchmark: BenchmarkFixture) -> None:
    head = ResponseHead.parse(RESPONSE)
    args = (head, 400, True, "0123456789ab-00000001", b"x-budgateway-upstream: vllm\r\n", 1, 90)
    written = benchmark.pedantic(ResponseHeadWriter().write, args, rounds=200, iterations=5000, warmup_rounds=5)
    assert b"server" not in written


def test_chunk_scan_native(benchmark: BenchmarkFixture) -> None:
    feed = ChunkScanner(upstream=True).feed
    assert benchmark.pedantic(feed, (CHUNK,), rounds=200, iterations=5000, warmup_rounds=5) == -1
