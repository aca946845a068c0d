"""Headers that the gateway forwards: an allow-list upstream, a deny-list downstream (RELIABILITY 3, items 5 and 6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from downstream import Answer, Downstream, request_bytes
from integration.gateways import gateway, gateway_async
from integration.processes import Server
from ports import free_port
from upstreams import faults
from upstreams.faulty import FaultyUpstream
from upstreams.wire import Received, head

pytestmark = [pytest.mark.integration]

CHAT = "/v1/chat/completions"
BODY = b'{"model":"demo","messages":[]}'
JSON = ("Content-Type", "application/json")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(port: int) -> Iterator[Server]:
    """A gateway with a key of its own for the upstream, and one header more that it passes on."""
    provider = {
        "api_key": "env:UPSTREAM_KEY",
        "headers": {"x-from-the-operator": "yes"},
        "forward_headers": ["x-tenant"],
        "health_check_interval": 3600.0,
    }
    with gateway(f"http://127.0.0.1:{port}/base", provider=provider, env={"UPSTREAM_KEY": "sk-upstream"}) as server:
        yield server


@pytest.fixture
async def upstream(server: Server, port: int) -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.chat(), port=port) as upstream:
        yield upstream


async def ask(server: Server, *headers: tuple[str, str], path: str = CHAT) -> Answer:
    async with Downstream(server.url) as client:
        return await client.ask("POST", path, BODY, [JSON, *headers])


async def sent(server: Server, upstream: FaultyUpstream, *headers: tuple[str, str]) -> Received:
    """The request that reached the upstream."""
    assert (await ask(server, *headers)).status == 200
    (request,) = upstream.requests
    return request


@pytest.mark.parametrize(
    "name",
    [
        "Cookie",
        "X-Api-Key",
        "Api-Key",
        "X-Goog-Api-Key",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Forwarded",
        "X-Real-IP",
        "X-Forwarded-User",
        "X-Anything-Else",
        "Accept-Encoding-X",
        "TE",
        "Keep-Alive",
        "Origin",
        "Referer",
        "Range",
        "X-HTTP-Method-Override",
        "X-Original-URL",
    ],
)
async def test_what_is_not_on_the_list_stays_here(server: Server, upstream: FaultyUpstream, name: str) -> None:
    request = await sent(server, upstream, (name, "planted"))
    assert b"planted" not in request.raw
    assert name.lower() not in request.names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Accept", "text/event-stream"),
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("X-Request-ID", "abc-123"),
        ("X-Tenant", "blue"),
    ],
)
async def test_what_is_on_the_list_goes_up(server: Server, upstream: FaultyUpstream, name: str, value: str) -> None:
    assert (await sent(server, upstream, (name, value))).header(name.lower()) == value


VENDOR = [
    ("OpenAI-Beta", "assistants=v2"),
    ("OpenAI-Organization", "org-1"),
    ("openai-project", "proj-1"),
    ("anthropic-version", "2023-06-01"),
    ("Anthropic-Beta", "tools-2024-05-16,other-2025-01-01"),
    ("anthropic-dangerous-direct-browser-access", "true"),
]


@pytest.mark.parametrize(("kind", "passes"), [("openai", True), ("litellm", True), ("vllm", False), ("sglang", False)])
async def test_what_apis_are_asked_by_header_goes_to_those_that_know_it(kind: str, passes: bool) -> None:
    async with FaultyUpstream(faults.chat()) as upstream, gateway_async(upstream.url, kind=kind) as server:
        assert (await ask(server, *VENDOR, ("X-Stainless-OS", "Linux"))).status == 200
        (request,) = upstream.requests
    given = {name.lower(): value for name, value in VENDOR}
    assert {name: request.header(name) for name in given if name in request.names} == (given if passes else {})
    assert "x-stainless-os" not in request.names


async def test_the_operators_word_replaces_the_clients() -> None:
    """With the operator's key, whose project pays is the operator's to say."""
    provider = {"headers": {"openai-project": "proj-ours"}}
    async with FaultyUpstream(faults.chat()) as upstream, gateway_async(upstream.url, provider=provider) as server:
        assert (await ask(server, ("OpenAI-Project", "proj-theirs"), ("OpenAI-Beta", "x"))).status == 200
        (request,) = upstream.requests
    assert (request.header("openai-project"), request.header("openai-beta")) == ("proj-ours", "x")


async def test_the_upstream_gets_the_gateways_key_and_never_the_clients(
    server: Server, upstream: FaultyUpstream
) -> None:
    request = await sent(server, upstream, ("Authorization", "Bearer sk-client"))
    assert request.header("authorization") == "Bearer sk-upstream"
    assert b"sk-client" not in request.raw


async def test_the_request_is_written_anew(server: Server, upstream: FaultyUpstream, port: int) -> None:
    request = await sent(server, upstream)
    assert request.method == "POST"
    assert request.target == f"/base{CHAT}"
    assert request.header("host") == f"127.0.0.1:{port}"
    assert request.header("content-type") == "application/json"
    assert request.header("content-length") == str(len(BODY))
    assert request.header("x-from-the-operator") == "yes"
    assert request.body == BODY


async def test_a_header_that_connection_names_is_not_passed_on(server: Server, upstream: FaultyUpstream) -> None:
    request = await sent(server, upstream, ("Connection", "keep-alive, X-Tenant"), ("X-Tenant", "blue"))
    assert b"blue" not in request.raw


@pytest.mark.parametrize("apart", [False, True], ids=["one packet", "body apart"])
async def test_an_upgrade_that_nobody_takes_loses_no_body(
    server: Server, upstream: FaultyUpstream, apart: bool
) -> None:
    """curl --http2 and Java's client ask for h2c with their POSTs; uvicorn, for one, then drops the body."""
    asks = [JSON, ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")]
    async with Downstream(server.url) as client:
        wire = request_bytes(client.host, "POST", CHAT, BODY, asks)
        at = len(wire) - len(BODY) if apart else len(wire)
        await client.send(wire[:at])
        await asyncio.sleep(0.05)
        await client.send(wire[at:] + request_bytes(client.host, "POST", CHAT, BODY, [JSON]))
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert [request.body for request in upstream.requests] == [BODY, BODY]
    assert not {"upgrade", "http2-settings"} & upstream.requests[0].names


async def test_forwarded_for_is_the_gateways_word(server: Server, upstream: FaultyUpstream) -> None:
    planted = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Host", "evil"), ("X-Forwarded-Proto", "gopher")]
    request = await sent(server, upstream, *planted)
    for value in (b"6.6.6.6", b"evil", b"gopher"):
        assert value not in request.raw


async def test_a_request_id_is_made_and_the_same_everywhere(server: Server, upstream: FaultyUpstream) -> None:
    answer = await ask(server)
    made = answer.header("x-request-id")
    assert made
    assert upstream.requests[0].header("x-request-id") == made
    assert (await ask(server)).header("x-request-id") != made


@pytest.mark.parametrize("value", ["x" * 300, "with space", 'quote"d', "\x80\xff", ""])
async def test_a_strange_request_id_is_not_taken_over(server: Server, upstream: FaultyUpstream, value: str) -> None:
    """It goes into logs, headers and error bodies."""
    answer = await ask(server, ("X-Request-ID", value))
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert answer.header("x-request-id") not in (value, "", None)


@pytest.mark.parametrize(
    "name",
    [
        "Server",
        "Set-Cookie",
        "Alt-Svc",
        "Keep-Alive",
        "Proxy-Authenticate",
        "OpenAI-Organization",
        "Trailer",
        "Upgrade",
    ],
)
async def test_what_clients_must_not_see_is_taken_out(server: Server, upstream: FaultyUpstream, name: str) -> None:
    upstream.script(faults.raw(faults.json_bytes({}, 200, (name, "planted"))))
    answer = await ask(server)
    assert answer.status == 200
    assert "planted" not in [value for _, value in answer.headers]


async def test_a_header_that_the_upstreams_connection_names_is_taken_out(
    server: Server, upstream: FaultyUpstream
) -> None:
    upstream.script(faults.raw(faults.json_bytes({}, 200, ("Connection", "keep-alive, X-Hop"), ("X-Hop", "planted"))))
    assert (await ask(server)).header("x-hop") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Retry-After", "7"),
        ("X-RateLimit-Remaining-Requests", "9"),
        ("OpenAI-Processing-Ms", "12"),
        ("Cache-Control", "no-store"),
    ],
)
async def test_what_clients_use_comes_down(server: Server, upstream: FaultyUpstream, name: str, value: str) -> None:
    upstream.script(faults.raw(faults.json_bytes({}, 200, (name, value))))
    assert (await ask(server)).header(name.lower()) == value


async def test_framing_is_never_copied(server: Server, upstream: FaultyUpstream) -> None:
    """An answer ended by its connection becomes one with a length or chunks, and our connection stays."""
    upstream.script(faults.until_close(b'{"a": 1}'))
    async with Downstream(server.url) as client:
        first = await client.ask("POST", CHAT, BODY, [JSON])
        assert first.is_complete
        assert first.json() == {"a": 1}
        assert (await client.ask("POST", CHAT, BODY, [JSON])).status == 200


async def test_a_header_with_a_line_break_is_no_way_to_write_headers(server: Server, upstream: FaultyUpstream) -> None:
    wire = head(200, [("content-length", "0"), ("x-odd", "a\rset-cookie: planted=1")])
    upstream.script(faults.raw(wire))
    answer = await ask(server)
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_protocol"
