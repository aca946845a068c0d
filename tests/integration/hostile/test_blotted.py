"""Answers that repeat what is ours: keys in errors, our own header names, the upstream's address in locations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received, chunk, head, sse

from budgateway.records import Secret

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
JSON = [("Content-Type", "application/json")]
ASKS = {
    "document": b'{"model":"demo","messages":[]}',
    "stream": b'{"model":"demo","stream":true,"messages":[]}',
}
KEY = 'sk-of-the-operator/with"quotes\\and-slashes'
OTHER = "another-secret-0123456789"
PROVIDER: dict[str, Any] = {"api_key": Secret(KEY), "headers": (("x-api-key", Secret(OTHER)), ("x-team", Secret("y")))}


async def ask(gateway: Inside, body: bytes = ASKS["document"], path: str = CHAT) -> Answer:
    async with Downstream(gateway.url) as client:
        await client.send(request_bytes(client.host, "POST", path, body, JSON))
        return await client.answer()


def spelled(text: str) -> list[bytes]:
    """A text as documents quote it."""
    quoted = json.dumps(text)[1:-1]
    return [text.encode(), quoted.encode(), quoted.replace("/", "\\/").encode()]


def holds(answer: Answer, *secrets: str) -> bool:
    whole = b"\r\n".join(f"{name}: {value}".encode() for name, value in answer.headers) + bytes(answer.body)
    return any(form in whole for secret in secrets for form in spelled(secret))


def error(form: bytes) -> bytes:
    return b'{"error":{"message":"not allowed with Bearer ' + form + b'","type":"x","code":"y"}}'


def document(status: int, body: bytes, *headers: tuple[str, str]) -> bytes:
    return head(status, [faults.JSON, ("content-length", str(len(body))), *headers]) + body


def pieces(status: int, body: bytes, *headers: tuple[str, str], kind: tuple[str, str] = faults.JSON) -> bytes:
    parts = [body[at : at + 3] for at in range(0, len(body), 3)]
    return head(status, [kind, faults.CHUNKED, *headers]) + b"".join(map(chunk, parts)) + b"0\r\n\r\n"


@pytest.mark.parametrize("secret", [KEY, OTHER])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
async def test_no_error_carries_a_key(status: int, secret: str, tmp_path: Path) -> None:
    """Whole, chunked, and a byte at a time; the length that was told stays right."""
    async with FaultyUpstream(faults.chat()) as upstream, inside(upstream.url, tmp_path, provider=PROVIDER) as gateway:
        for form in spelled(secret):
            body = error(form)
            blotted = error(b"*" * len(form))
            for answer in (
                faults.raw(document(status, body)),
                faults.dribble(document(status, body), 1),
                faults.raw(pieces(status, body)),
                faults.dribble(pieces(status, body), 1),
            ):
                upstream.script(answer)
                got = await ask(gateway)
                assert (got.status, got.is_complete, bytes(got.body)) == (status, True, blotted)


async def test_no_text_that_is_not_json_carries_a_key(tmp_path: Path) -> None:
    page = b"<html>" + KEY.encode() + b"</html>"
    wire = head(502, [("content-type", "text/html"), ("content-length", str(len(page)))]) + page
    async with FaultyUpstream(faults.raw(wire)) as upstream:
        async with inside(upstream.url, tmp_path, provider=PROVIDER) as gateway:
            got = await ask(gateway)
            assert (got.status, bytes(got.body)) == (502, page.replace(KEY.encode(), b"*" * len(KEY)))


@pytest.mark.parametrize("step", [1 << 20, 1])
@pytest.mark.parametrize("kind", ["document", "chunked", "stream", "later in a stream"])
@pytest.mark.parametrize("code", [400, 500])
async def test_no_error_under_a_200_carries_a_key(code: int, kind: str, step: int, tmp_path: Path) -> None:
    """Neither one that is passed on (it says that the request was wrong) nor one that we tell of in our own words."""
    for form in (OTHER.encode(), *spelled(KEY)):
        # Plain it breaks the document that it is in.
        broken = form == KEY.encode()
        body = b'{"error":{"message":"no ' + form + b'","code":%d}}' % code
        if kind == "document":
            wire = document(200, body)
        elif kind == "chunked":
            wire = pieces(200, body)
        else:
            events = faults.chat_events("one")[:2] if kind == "later in a stream" else []
            wire = faults.stream_bytes([*events, b"data: " + body + b"\n\n"])
        async with FaultyUpstream(faults.dribble(wire, step)) as upstream:
            async with inside(upstream.url, tmp_path, provider=PROVIDER) as gateway:
                got = await ask(gateway, ASKS["stream" if "stream" in kind else "document"])
                assert not holds(got, KEY, OTHER)
                assert broken or b"***" in got.body
                await gateway.at_rest()


async def test_a_whole_answer_is_left_alone(tmp_path: Path) -> None:
    """Ordinarily and, from the second one on, by the fast path."""
    body = json.dumps({"choices": [{"message": {"content": OTHER}}]}).encode()
    async with FaultyUpstream(faults.raw(document(200, body))) as upstream:
        async with inside(upstream.url, tmp_path, provider=PROVIDER) as gateway, Downstream(gateway.url) as client:
            for _ in range(4):
                await client.send(request_bytes(client.host, "POST", CHAT, ASKS["document"], JSON))
                assert bytes((await client.answer()).body) == body


async def test_text_of_a_model_is_left_alone(tmp_path: Path) -> None:
    """A stream is looked at for keys where it tells of an error, and nowhere else."""
    events = faults.chat_events("one", OTHER)
    async with FaultyUpstream(faults.raw(faults.stream_bytes(events))) as upstream:
        async with inside(upstream.url, tmp_path, provider=PROVIDER) as gateway:
            asks = b'{"model":"demo","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
            assert bytes((await ask(gateway, asks)).body) == b"".join(events)


@pytest.mark.parametrize("status", [200, 401])
async def test_no_header_carries_a_key(status: int, tmp_path: Path) -> None:
    told = [("www-authenticate", f'Bearer realm="{OTHER}"'), ("x-debug", f"Bearer {OTHER};"), ("x-other", "kept")]
    async with FaultyUpstream(faults.raw(document(status, b'{"a":1}', *told))) as upstream:
        async with inside(upstream.url, tmp_path, provider=PROVIDER) as gateway:
            for _ in range(3):
                got = await ask(gateway)
                assert not holds(got, OTHER)
                assert (got.header("x-other"), got.header("x-debug")) == ("kept", f"Bearer {'*' * len(OTHER)};")


OURS = [("X-Budgateway-Upstream", "evil"), ("x-budgateway-attempts", "99"), ("X-BUDGATEWAY-ANYTHING", "1")]
LIMITS = [("Rate-Limit-Limit", "9"), ("rate-limit-remaining", "8"), ("Rate-Limit-Reset", "7")]


@pytest.mark.parametrize("disclose", [False, True])
async def test_our_names_are_no_upstreams_to_use(disclose: bool, tmp_path: Path) -> None:
    wire = faults.json_bytes({"object": "chat.completion", "choices": []}, 200, *OURS, *LIMITS)
    async with FaultyUpstream(faults.raw(wire)) as upstream:
        async with inside(upstream.url, tmp_path, disclose=disclose) as gateway, Downstream(gateway.url) as client:
            # The first goes the ordinary way, later ones may go the fast one.
            for _ in range(5):
                await client.send(request_bytes(client.host, "POST", CHAT, ASKS["document"], JSON))
                got = await client.answer()
                client.bytes_read.clear()
                names = [name for name, _ in got.headers if name.lower().startswith(("x-budgateway-", "rate-limit-"))]
                assert len(names) == (3 if disclose else 0)
                if disclose:
                    assert got.header("x-budgateway-attempts") == "1"


@pytest.mark.parametrize("name", ["Location", "content-location"])
@pytest.mark.parametrize("status", [200, 201, 302, 307])
async def test_an_upstreams_own_address_is_not_told(status: int, name: str, tmp_path: Path) -> None:
    async def serve(peer: Peer, request: Received) -> None:
        host = request.header("host")
        await peer.send(document(status, b'{"id":"7"}', (name, f"http://{host}/base/v1/files/7?x=1#y")))

    async with FaultyUpstream(serve) as upstream:
        async with inside(f"{upstream.url}/base", tmp_path) as gateway, Downstream(gateway.url) as client:
            for _ in range(4):
                await client.send(request_bytes(client.host, "POST", CHAT, ASKS["document"], JSON))
                got = await client.answer()
                client.bytes_read.clear()
                assert (got.status, bytes(got.body)) == (status, b'{"id":"7"}')
                assert got.header(name.lower()) == "/v1/files/7?x=1#y"


async def test_another_address_is_passed_on(tmp_path: Path) -> None:
    wire = document(302, b"{}", ("location", "https://files.example/7"))
    async with FaultyUpstream(faults.raw(wire)) as upstream, inside(upstream.url, tmp_path) as gateway:
        assert (await ask(gateway)).header("location") == "https://files.example/7"


async def test_a_key_in_a_stream_of_an_error_status_stays_here(tmp_path: Path) -> None:
    (event,) = sse(error(OTHER.encode()).decode())
    wire = pieces(500, event, kind=faults.EVENT_STREAM)
    async with FaultyUpstream(faults.dribble(wire, 2)) as upstream:
        async with inside(upstream.url, tmp_path, provider=PROVIDER) as gateway:
            assert not holds(await ask(gateway, ASKS["stream"]), OTHER)
