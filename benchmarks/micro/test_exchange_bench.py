"""One exchange through the compiled protocols and the whole pipeline, without sockets: what the gateway itself costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from budgateway import native
from budgateway.app.dataplane import DataPlane
from budgateway.records import Provider, RateLimit, Route, Settings, Upstream
from budgateway.server.connection_cy import protocols
from budgateway.transport.client_cy import ClientConnection

QUESTION = Path(__file__).parents[2].joinpath("tests", "data", "chat-300.json").read_bytes()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\ncontent-type: application/json\r\naccept: */*\r\n"
    b"user-agent: bench\r\ncontent-length: %d\r\n\r\n%b" % (len(QUESTION), QUESTION)
)
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%b"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":20,'
    b'"total_tokens":30}}' % (b"y" * 160)
)
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
EVENT = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":" token"}}]}\n\n'
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


class Sink:
    """A transport that takes everything and counts the writes."""

    def __init__(self) -> None:
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1

    def writelines(self, data: list[bytes]) -> None:
        self.writes += 1

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None: ...
    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...
    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def settings() -> Settings:
    """Everything on: routing by model, two rate limits, least connections, metrics, access log, request id."""
    upstream = Upstream(url="http://127.0.0.1:1", tls=False, host="127.0.0.1", port=1)
    route = Route(
        "chat", "/v1/chat/completions", "vllm", methods=("POST",), load_balancer="least_connections",
        auth_required=False, rate_limit=600_000_000, rate_burst=10_000_000,
    )  # fmt: skip
    return Settings(
        host="127.0.0.1", port=0, metrics_enabled=False, access_log="/dev/null",
        rate_limit=RateLimit(600_000_000, 10_000_000), providers=(Provider("vllm", "vllm", (upstream,)),),
        routes=(route,),
    )  # fmt: skip


def driven(work: Callable[[Any, Any, Sink], None]) -> None:
    """Hand `work` both ends of a data plane: a client's connection, an upstream's warm one, the client's transport."""
    with closing(asyncio.new_event_loop()) as loop:

        async def drive() -> None:
            plane = DataPlane(settings(), native.Segment(1), 0, "/nowhere")
            client, sink = protocols(plane.server_state)(), Sink()
            client.connection_made(sink)
            pool = plane.snapshot.providers["vllm"][0].pool
            upstream = ClientConnection(pool, plane.relay)
            upstream.connection_made(Sink())  # type: ignore[arg-type]
            upstream.idle_since_ns = time.monotonic_ns()
            pool.put(upstream)
            try:
                work(client, upstream, sink)
            finally:
                await plane.close()

        loop.run_until_complete(drive())


@pytest.mark.benchmark(group="exchange")
def test_exchange_compiled(benchmark: Any) -> None:
    def work(client: Any, upstream: Any, sink: Sink) -> None:
        def exchange() -> None:
            client.data_received(REQUEST)
            upstream.data_received(RESPONSE)

        exchange()
        assert sink.writes == 1
        benchmark(exchange)

    driven(work)


@pytest.mark.benchmark(group="chunk of a stream")
def test_stream_chunk_compiled(benchmark: Any) -> None:
    def work(client: Any, upstream: Any, sink: Sink) -> None:
        client.data_received(REQUEST)
        upstream.data_received(STREAM_HEAD + CHUNK)
        upstream.data_received(CHUNK)
        assert sink.writes == 2
        benchmark(upstream.data_received, CHUNK)

    driven(work)
