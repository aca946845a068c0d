"""Whatever a client writes wherever it may write something: nothing but the configured upstreams is ever connected to (S9)."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from downstream import Downstream, request_bytes
from integration.operated import CHAT, JSON, PLAIN_BODY, operated
from tokens import forged, own
from upstreams import faults
from upstreams.faulty import FaultyUpstream

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

# Ways to write "this machine".
HOSTS = (
    "127.0.0.1", "localhost", "LOCALHOST.", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0x7f.1",
    "0177.0.0.1", "127.0.0.1%00", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[fe80::1%25lo]", "user@127.0.0.1", "upstream#@127.0.0.1", "127.0.0.1\\@upstream", "%31%32%37.0.0.1", "①②⑦.0.0.1".encode().decode("latin-1"),
)  # fmt: skip
HEADERS = (
    "X-Forwarded-Host", "X-Forwarded-Server", "X-Forwarded-For", "X-Real-IP", "X-Host", "X-Original-URL", "X-Rewrite-URL",
    "X-Upstream", "X-Target-URL", "X-Api-Base", "Referer", "Origin", "From", "Via", "Alt-Svc", "X-Portkey-Custom-Host",
)  # fmt: skip
MEMBERS = ("base_url", "api_base", "endpoint", "url", "webhook", "callback_url", "provider", "custom_host")
AUTH = '[auth]\njwt_secret = "env:JWT_SECRET"\n'


@asynccontextmanager
async def trap() -> AsyncIterator[tuple[int, list[object]]]:
    """A port on every address of this machine, and who connected to it."""
    caught: list[object] = []

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caught.append(writer.get_extra_info("peername"))
        writer.close()

    # IPv6 and IPv4 in one.
    sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    server = await asyncio.start_server(connected, sock=sock)
    port = sock.getsockname()[1]
    try:
        yield port, caught
    finally:
        server.close()
        await server.wait_closed()


def requests(where: str) -> Iterator[bytes]:
    """Every place of a request with this authority in it."""
    url = f"http://{where}/v1/models"
    for target in (url, f"//{where}/v1/models", f"/v1/models?url={url}", f"/v1/{url}", f"@{where}/v1/models", where):
        yield wire("GET", target)
    yield wire("CONNECT", where)
    yield wire("POST", CHAT, host=where)
    for name in HEADERS:
        yield wire("POST", CHAT, (name, url))
    yield wire("POST", CHAT, ("Forwarded", f'host="{where}";for="{where}"'))
    yield wire("GET", "/v1/realtime", ("Upgrade", "websocket"), ("Connection", "upgrade"), host=where)
    for model in (url, where, f"openai/{url}", f"{where}/demo"):
        yield wire("POST", CHAT, body={"model": model})
    yield wire("POST", CHAT, body={"model": "demo"} | dict.fromkeys(MEMBERS, url))
    for token in tokens(url):
        yield wire("POST", CHAT, ("Authorization", f"Bearer {token}"))


def tokens(url: str) -> Iterator[str]:
    """Tokens that say where their key is, and whose issuer it would be."""
    yield own(iss=url)
    yield own(iss=url, jku=url)
    for name in ("jku", "x5u", "jwk", "kid"):
        yield forged({"alg": "HS256", "typ": "JWT", name: url}, {"sub": "eve", "iss": url, "exp": 9999999999})
    head = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "jku": url, "kid": url}).encode()).decode().rstrip("=")
    yield f"{head}.e30.e30"


def wire(
    method: str, target: str, *headers: tuple[str, str], host: str = "gateway", body: dict[str, str] | None = None
) -> bytes:
    data = None
    if method == "POST":
        data = PLAIN_BODY if body is None else json.dumps({"messages": []} | body).encode()
        headers = (*JSON, *headers)
    return request_bytes(host, method, target, data, headers)


async def test_nothing_but_the_upstream_is_connected_to() -> None:
    issuer = '[[auth.issuers]]\nissuer = "https://login.example.com/"\nalgorithms = ["HS256"]\nsecret = "env:JWT_SECRET"\naudience = "a"\n'
    async with (
        trap() as (port, caught),
        FaultyUpstream(faults.chat()) as upstream,
        operated([upstream.url], workers=1, extra=AUTH + issuer) as gateway,
    ):
        asked = 0
        for host in HOSTS:
            for message in requests(f"{host}:{port}"):
                async with Downstream(gateway.url) as client:
                    await client.send(message)
                    answer = await client.answer()
                assert answer.status in (200, 400, 401, 403, 404, 405, 421, 426, 501, 502), (message, answer.body)
                asked += 1
        await gateway.until(lambda facts: facts["in_flight"] == 0)
        assert asked > 800
        assert not caught
        # It would have been.
        for host in ("127.0.0.1", "::1"):
            _, writer = await asyncio.open_connection(host, port)
            writer.transport.abort()
        async with asyncio.timeout(5):
            while len(caught) < 2:
                await asyncio.sleep(0.01)
        print(f"{asked} requests, {len(upstream.requests)} of which the upstream was asked")
        assert upstream.requests
