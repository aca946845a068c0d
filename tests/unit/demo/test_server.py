"""The demo server over a real socket, as a raw client sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from budgateway.demo import DemoServer


async def talk(demo: DemoServer, *pieces: bytes, close: bool = True) -> bytes:
    """Send the pieces, then read until the server closes."""
    host, _, port = demo.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    if close:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def run(*pieces: bytes) -> bytes:
    async def main() -> bytes:
        async with asyncio.timeout(10), DemoServer(token_delay_s=0) as demo:
            return await talk(demo, *pieces)

    return asyncio.run(main())


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = [
        b"POST " + path.encode() + b" HTTP/1.1",
        b"host: x",
        b"content-length: %d" % len(body),
        *headers,
        b"",
        body,
    ]
    return b"\r\n".join(lines)


def chat(**more: Any) -> bytes:
    return json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}], **more}).encode()


def test_pipelined_requests_are_answered_in_order() -> None:
    answer = run(post("/debug/echo", b"one") + post("/debug/echo", b"two"))
    assert answer.index(b'"body":"one"') < answer.index(b'"body":"two"')


def test_echo_shows_headers_in_order_and_as_spelled() -> None:
    answer = run(post("/debug/echo?a=b", b"", b"X-Two: 2", b"x-One: 1"))
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["target"] == "/debug/echo?a=b"
    assert told["headers"] == [["host", "x"], ["content-length", "0"], ["X-Two", "2"], ["x-One", "1"]]


def test_request_id_comes_back() -> None:
    assert b"\r\nx-request-id: abc\r\n" in run(post("/health", b"", b"X-Request-ID: abc"))


def test_the_same_request_gets_the_same_bytes() -> None:
    assert run(post("/v1/chat/completions", chat(stream=True))) == run(post("/v1/chat/completions", chat(stream=True)))


def test_stream_is_chunked_and_ends_with_done() -> None:
    answer = run(post("/v1/chat/completions", chat(stream=True)))
    assert b"transfer-encoding: chunked" in answer
    assert answer.endswith(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def test_stream_to_http_1_0_is_closed_instead_of_chunked() -> None:
    answer = run(post("/v1/chat/completions", chat(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b"chunked" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


def test_expect_is_answered_before_the_body() -> None:
    assert run(post("/debug/echo", b"x", b"Expect: 100-continue")).startswith(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"
    )


def test_what_is_not_http_gets_400_after_the_good_ones() -> None:
    answer = run(post("/debug/echo", b""), b"nonsense\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 400 Bad Request" in answer


def test_errors_have_the_shape_of_openai() -> None:
    cases = {
        b"{": (400, None),
        b"[]": (400, None),
        b"{}": (400, None),
        b'{"model":"demo"}': (400, None),
        b'{"model":"demo","messages":[1]}': (400, None),
        b'{"model":"other","messages":[]}': (404, "model_not_found"),
        b"[" * 100_000: (400, None),
    }
    for body, (status, code) in cases.items():
        answer = run(post("/v1/chat/completions", body))
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (int(answer.split()[1]), error["code"]) == (status, code), body[:40]
        assert error["type"] == "invalid_request_error"


def test_closing_drops_a_stream_in_flight() -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            async with DemoServer(token_delay_s=60) as demo:
                task = asyncio.create_task(talk(demo, post("/v1/chat/completions", chat(stream=True)), close=False))
                while not demo.open_connections:
                    await asyncio.sleep(0)
            try:
                await task
            except ConnectionResetError:
                pass
            assert demo.open_connections == 0

    asyncio.run(main())
