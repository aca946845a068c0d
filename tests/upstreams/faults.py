"""The catalogue: answers for `FaultyUpstream`, from right to every way of being wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

from upstreams.faulty import Answer, Greeting, Peer
from upstreams.wire import Received, chunk, chunked, head, sse

EVENT_STREAM = ("content-type", "text/event-stream")
CHUNKED = ("transfer-encoding", "chunked")
JSON = ("content-type", "application/json")


def chat_events(*words: str, usage: bool = True) -> list[bytes]:
    """A small, right chat stream: role, words, finish, usage, `[DONE]`."""
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}

    def event(delta: dict[str, Any], finish: str | None = None) -> str:
        return json.dumps(frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    events = [
        event({"role": "assistant", "content": ""}),
        *(event({"content": word}) for word in words),
        event({}, "stop"),
    ]
    if usage:
        tokens = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
        events.append(json.dumps(frame | {"choices": [], "usage": tokens}))
    return sse(*events, "[DONE]")


def stream_bytes(events: Sequence[bytes] | None = None, *headers: tuple[str, str]) -> bytes:
    """A right stream as it stands on the wire, each event a chunk."""
    return head(200, [EVENT_STREAM, CHUNKED, *headers], reason="OK") + chunked(
        chat_events("one", "two") if events is None else events
    )


def json_bytes(value: object, status: int = 200, *headers: tuple[str, str]) -> bytes:
    """A right JSON answer as it stands on the wire."""
    body = json.dumps(value).encode()
    return head(status, [JSON, ("content-length", str(len(body))), *headers]) + body


def chat_bytes(text: str = "hello") -> bytes:
    """A right whole chat completion as it stands on the wire."""
    message = {"role": "assistant", "content": text}
    return json_bytes(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "demo",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
        }
    )


# right answers


def raw(wire: bytes, *, then_close: bool = False) -> Answer:
    """These very bytes, in one write."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(wire)
        if then_close:
            peer.close()

    return answer


def chat(text: str = "hello") -> Answer:
    """A whole chat completion."""
    return raw(chat_bytes(text))


def stream(events: Sequence[bytes] | None = None, *, pause_s: float = 0.0) -> Answer:
    """A right stream, each event a chunk and a write of its own."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(head(200, [EVENT_STREAM, CHUNKED], reason="OK"))
        for event in chat_events("one", "two") if events is None else events:
            await peer.send(chunk(event))
            await asyncio.sleep(pause_s)
        await peer.send(chunk(b""))

    return answer


def echo() -> Answer:
    """Answer with the request as JSON: method, target, headers, body."""

    async def answer(peer: Peer, request: Received) -> None:
        seen = {"method": request.method, "target": request.target, "headers": request.headers}
        await peer.send(json_bytes(seen | {"body": request.body.decode("latin-1")}))

    return answer


def status(code: int, *, retry_after: str | None = None, body: object = None) -> Answer:
    """An error as OpenAI's servers shape it."""
    error = {"error": {"message": f"answered {code}", "type": "server_error", "param": None, "code": None}}
    headers = [] if retry_after is None else [("retry-after", retry_after)]
    return raw(json_bytes(error if body is None else body, code, *headers))


# slow


def silent() -> Answer:
    """Take the request and never answer, until the gateway gives up."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.gone()

    return answer


def held(gate: asyncio.Event, then: Answer) -> Answer:
    """Answer only once the gate opens."""

    async def answer(peer: Peer, request: Received) -> None:
        await gate.wait()
        await then(peer, request)

    return answer


def slow_head(delay_s: float, then: Answer) -> Answer:
    """Answer after a while."""

    async def answer(peer: Peer, request: Received) -> None:
        await asyncio.sleep(delay_s)
        await then(peer, request)

    return answer


def stall(wire: bytes, at: int) -> Answer:
    """Send the first bytes, then nothing more, until the gateway gives up."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(wire[:at])
        await peer.gone()

    return answer


def dribble(wire: bytes, size: int = 1, pause_s: float = 0.0) -> Answer:
    """Right, in tiny packets."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.drip(wire, size, pause_s)

    return answer


def filler(size_bytes: int) -> bytes:
    """An event with so much text."""
    return sse('{"choices": [{"index": 0, "delta": {"content": "%s"}, "finish_reason": null}]}' % ("x" * size_bytes))[0]


def endless(event: bytes = b'data: {"choices": []}\n\n') -> Answer:
    """A stream that goes on for as long as the gateway reads."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(head(200, [EVENT_STREAM, CHUNKED]))
        while not peer.is_gone:
            await peer.send(chunk(event))
            await asyncio.sleep(0)

    return answer


# cut


def cut(wire: bytes, at: int, *, reset: bool = False) -> Answer:
    """Send the first bytes, then FIN or RST; at 0 there is no answer at all."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(wire[:at])
        if reset:
            # A RST overtakes and discards what the gateway has not read yet: let it.
            await asyncio.sleep(0.02)
            peer.reset()
        else:
            peer.close()

    return answer


def half_close(wire: bytes, at: int) -> Answer:
    """Send the first bytes and FIN, but keep reading until the gateway closes too."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(wire[:at])
        peer.finish()
        await peer.gone()

    return answer


def close_after(wire: bytes) -> Answer:
    """Right, then closed without having said `Connection: close`."""
    return raw(wire, then_close=True)


def race(wire: bytes, *, reset: bool = False) -> Answer:
    """Right, kept alive, and closed at the moment the next request's first byte arrives."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(wire)
        if await peer.data_arrives():
            if reset:
                peer.reset()
            else:
                peer.close()

    return answer


def close_on_accept(*, reset: bool = False) -> Greeting:
    """A greeting: close before any request."""

    async def greet(peer: Peer) -> None:
        if reset:
            peer.reset()
        else:
            peer.close()

    return greet


# lies


def bad_chunk(events: Sequence[bytes] | None = None, size_line: bytes = b"zz\r\n", *, pause_s: float = 0.05) -> Answer:
    """A stream in which, a moment after its first event, a chunk size is none."""
    first = (chat_events("one") if events is None else events)[0]

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(head(200, [EVENT_STREAM, CHUNKED]) + chunk(first))
        await asyncio.sleep(pause_s)  # else both may come in one read, and the gateway can still say 502
        await peer.send(size_line + b"data: x\n\n\r\n")

    return answer


def wrong_length(body: bytes, declared: int) -> Answer:
    """A body that is shorter (then closed) or longer than its length says."""
    wire = head(200, [JSON, ("content-length", str(declared))]) + body
    return raw(wire, then_close=declared > len(body))


def extra_bytes(wire: bytes, extra: bytes | None = None) -> Answer:
    """A right answer with more behind it: by default a whole response for a request that somebody else will send."""
    return raw(wire + (json_bytes({"smuggled": True}) if extra is None else extra))


def extra_later(wire: bytes, extra: bytes | None = None, *, pause_s: float = 0.05) -> Answer:
    """The same, but the second response comes while the connection is idle."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(wire)
        await asyncio.sleep(pause_s)
        await peer.send(json_bytes({"smuggled": True}) if extra is None else extra)

    return answer


def empty_ok(*headers: tuple[str, str]) -> Answer:
    """200 and nothing in it."""
    return raw(head(200, [*(headers or (JSON,)), ("content-length", "0")]))


def empty_stream() -> Answer:
    """A stream that ends before its first event."""
    return raw(head(200, [EVENT_STREAM, CHUNKED]) + chunk(b""))


def error_event_first(code: int = 500) -> Answer:
    """200, and the error as the first event."""
    error = {"error": {"message": "the engine died", "type": "server_error", "code": code}}
    return stream(sse(json.dumps(error)))


def huge_event(size_bytes: int) -> Answer:
    """A stream whose one event is as large as that."""
    return stream([*chat_events("one")[:1], b"data: " + b"x" * size_bytes + b"\n\n", *sse("[DONE]")])


def header_bomb(count: int = 1000, size: int = 100) -> Answer:
    """A head with very many headers."""
    return raw(head(200, [*((f"x-bomb-{index}", "b" * size) for index in range(count)), ("content-length", "0")]))


def endless_head() -> Answer:
    """A head that never ends."""

    async def answer(peer: Peer, request: Received) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while not peer.is_gone:
            await peer.send(b"x-more: and more and more\r\n" * 64)
            await asyncio.sleep(0)

    return answer


def informational(*codes: int, then: bytes, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """Informational answers (100, 102, 103) before the real one."""
    return raw(b"".join(head(code, headers) for code in codes) + then)


def until_close(body: bytes, *, version: str = "1.0", headers: Sequence[tuple[str, str]] = (JSON,)) -> Answer:
    """No length and no chunks: the end of the connection ends the body, as HTTP/1.0 has it."""
    return raw(head(200, headers, version=version) + body, then_close=True)


def garbage(wire: bytes = b"this is not HTTP\r\n\r\n") -> Answer:
    """Something else than HTTP."""
    return raw(wire, then_close=True)


# before the body


def never_reads() -> Greeting:
    """A greeting: read nothing at all, so that a large upload blocks."""

    async def greet(peer: Peer) -> None:
        peer.read_no_more()
        await peer.gone()

    return greet


def early_answer(wire: bytes, *, then_close: bool = True) -> Greeting:
    """A greeting: answer as soon as the request's first byte is there, before its body."""

    async def greet(peer: Peer) -> None:
        if await peer.data_arrives():
            await peer.send(wire)
            if then_close:
                peer.close()
            else:
                await peer.request()

    return greet
