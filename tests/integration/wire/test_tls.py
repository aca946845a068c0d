"""TLS on both sides: certificates are checked, streams pass, a cut is seen as one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from downstream import Downstream, request_bytes
from integration.certificates import Authority
from integration.inside import Inside, inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer

from budgateway.records import Tls

pytestmark = pytest.mark.integration
LOOPS = ("uvloop", "asyncio")

JSON = [("Content-Type", "application/json")]
EVENTS = faults.chat_events("one", "two", "three")
STREAM = faults.stream_bytes(EVENTS)


def ask(path: str = "/v1/chat/completions", body: bytes = b'{"model":"demo"}', *, close: bool = False) -> bytes:
    return request_bytes("a", "POST", path, body, [*JSON, *([("Connection", "close")] if close else [])])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def upstream(authority: Authority) -> AsyncIterator[FaultyUpstream]:
    async with FaultyUpstream(faults.echo(), tls=authority.server_context()) as upstream:
        yield upstream


@pytest.fixture
async def gateway(upstream: FaultyUpstream, authority: Authority, tmp_path: Path) -> AsyncIterator[Inside]:
    """TLS before and behind it."""
    provider = {"tls_ca_file": str(authority.ca_file)}
    async with inside(upstream.url, tmp_path, provider=provider, tls=Tls(*authority.server())) as gateway:
        yield gateway


async def talk(gateway: Inside, authority: Authority, wire: bytes) -> bytes:
    """Send it over TLS; everything until the end of the connection. SSLError when that is not clean."""
    port = int(gateway.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client_context())
    try:
        writer.write(wire)
        return await reader.read()
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:
            pass


async def test_a_request_passes_through_tls_twice(
    gateway: Inside, upstream: FaultyUpstream, authority: Authority
) -> None:
    assert gateway.url.startswith("https://")
    answer = await talk(gateway, authority, ask() + ask(close=True))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert len(upstream.requests) == 2
    assert len(upstream.connections) == 1
    await gateway.at_rest()


async def test_a_stream_passes_through_tls_twice(
    gateway: Inside, upstream: FaultyUpstream, authority: Authority
) -> None:
    upstream.script(faults.stream(EVENTS, pause_s=0.005))
    answer = await talk(gateway, authority, ask(close=True))
    assert answer.count(b"data: ") == len(EVENTS)
    assert answer.endswith(b"0\r\n\r\n")


async def test_a_large_upload_passes_through_tls_twice(
    gateway: Inside, upstream: FaultyUpstream, authority: Authority
) -> None:
    body = bytes(range(256)) * 8000
    wire = request_bytes("a", "POST", "/v1/files", body, [("Content-Type", "audio/wav"), ("Connection", "close")])
    answer = await talk(gateway, authority, wire)
    assert answer.startswith(b"HTTP/1.1 200")
    assert [request.body for request in upstream.requests] == [body]


async def test_a_cut_stream_has_no_terminator(gateway: Inside, upstream: FaultyUpstream, authority: Authority) -> None:
    upstream.script(faults.cut(STREAM, STREAM.index(b"two")))
    answer = await talk(gateway, authority, ask())
    assert not answer.endswith(b"0\r\n\r\n")
    await gateway.at_rest()


async def test_a_client_that_leaves_takes_the_upstream_with_it(
    gateway: Inside, upstream: FaultyUpstream, authority: Authority
) -> None:
    upstream.script(faults.silent())
    port = int(gateway.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client_context())
    writer.write(ask())
    await upstream.until(lambda up: len(up.requests) == 1)
    writer.transport.abort()
    await upstream.until(lambda up: up.open_connections == 0)
    await gateway.at_rest()
    assert (await gateway.lines(1))[0]["outcome"] == "client_gone"


async def test_plain_http_on_the_tls_port_is_no_request(
    gateway: Inside, upstream: FaultyUpstream, authority: Authority
) -> None:
    async with Downstream(gateway.url.replace("https", "http")) as client:
        await client.send(ask())
        await client.closed()
        assert not client.bytes_read.startswith(b"HTTP/1.1 2")
    assert not upstream.requests
    await talk(gateway, authority, ask(close=True))


async def test_a_certificate_of_somebody_else_is_502(upstream: FaultyUpstream, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    provider = {"tls_ca_file": str(stranger.ca_file)}
    async with inside(upstream.url, tmp_path, provider=provider) as gateway, Downstream(gateway.url) as client:
        await client.send(ask())
        answer = await client.answer()
        error = answer.json()["error"]
        assert (answer.status, error["code"]) == (502, "upstream_connect")
        assert "certificate" in error["message"]
        assert "not trusted" in error["message"]
        await gateway.at_rest()
    assert not upstream.requests


async def test_a_certificate_for_another_address_is_502(authority: Authority, tmp_path: Path) -> None:
    provider = {"tls_ca_file": str(authority.ca_file)}
    async with (
        FaultyUpstream(faults.echo(), tls=authority.server_context("127.0.0.9")) as upstream,
        inside(upstream.url, tmp_path, provider=provider) as gateway,
        Downstream(gateway.url) as client,
    ):
        await client.send(ask())
        answer = await client.answer()
        assert answer.status == 502
        assert "certificate" in answer.json()["error"]["message"]
        assert not upstream.requests


async def test_verification_can_be_switched_off(upstream: FaultyUpstream, tmp_path: Path) -> None:
    async with (
        inside(upstream.url, tmp_path, provider={"tls_verify": False}) as gateway,
        Downstream(gateway.url) as client,
    ):
        await client.send(ask())
        assert (await client.answer()).status == 200


async def test_an_upstream_without_tls_is_502(tmp_path: Path) -> None:

    async def speak_plainly(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    async with FaultyUpstream(greeting=speak_plainly) as upstream:
        url = upstream.url.replace("http:", "https:")
        async with (
            inside(url, tmp_path, provider={"tls_verify": False}) as gateway,
            Downstream(gateway.url) as client,
        ):
            await client.send(ask())
            answer = await client.answer()
            assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_connect")
        upstream.violations.clear()


async def test_a_handshake_that_never_ends_is_504(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        provider = {"connect_timeout_s": 0.2, "tls_verify": False}
        async with inside(url, tmp_path, provider=provider) as gateway, Downstream(gateway.url) as client:
            await client.send(ask())
            assert (await client.answer()).status == 504
            await gateway.at_rest()


async def test_a_truncated_response_without_length_is_no_whole_one(authority: Authority, tmp_path: Path) -> None:
    """A close-delimited body over TLS must end in close_notify (RFC 9112 9.8); a bare FIN may be an attacker's."""
    if not type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
        pytest.skip("asyncio's own TLS does not tell them apart")
    context = authority.server_context()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        provider = {"tls_ca_file": str(authority.ca_file)}
        serving = asyncio.create_task(asyncio.to_thread(serve_once, listener, context))
        async with inside(url, tmp_path, provider=provider) as gateway, Downstream(gateway.url) as client:
            await client.send(ask())
            answer = await client.answer()
            # The start of a JSON answer is held until it is whole, so this one can still be told.
            assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_protocol")
        await serving


def serve_once(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Answer one request without a length, and close TCP without a word of TLS."""
    listener.setblocking(True)
    plain, _ = listener.accept()
    secure = context.wrap_socket(plain, server_side=True)
    secure.recv(65536)
    secure.sendall(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{"half": ')
    with socket.socket(fileno=secure.detach()) as raw:
        raw.shutdown(socket.SHUT_WR)
        raw.recv(65536)


async def test_a_renewed_certificate_is_read_by_a_reload_and_cuts_nothing(tmp_path: Path) -> None:
    old = Authority(tmp_path, "old authority")
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, tls=Tls(*old.server())) as gateway:
            port = int(gateway.url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=old.client_context())
            new = Authority(tmp_path, "new authority")
            new.server()  # over the same files
            with pytest.raises(ssl.SSLCertVerificationError):
                await talk(gateway, new, ask(close=True))
            reload(gateway)
            assert (await talk(gateway, new, ask(close=True))).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(ssl.SSLCertVerificationError):
                await talk(gateway, old, ask(close=True))
            # A connection from before the renewal goes on.
            writer.write(ask(close=True))
            assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
            writer.close()


async def test_a_broken_renewal_is_refused_and_the_old_certificate_served(authority: Authority, tmp_path: Path) -> None:
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, tls=Tls(*authority.server())) as gateway:
            Path(tmp_path / "127.0.0.1.pem").write_text("half of a certifi")
            with pytest.raises(ssl.SSLError):
                reload(gateway)
            assert (await talk(gateway, authority, ask(close=True))).startswith(b"HTTP/1.1 200 ")


async def test_half_of_a_renewal_between_vote_and_switch_is_not_served(authority: Authority, tmp_path: Path) -> None:
    """The pair that was good when all workers said yes is the one they serve."""
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(upstream.url, tmp_path, tls=Tls(*authority.server())) as gateway:
            successor = gateway.plane.prepare(gateway.plane.snapshot.settings)
            key = Path(tmp_path / "127.0.0.1.key").read_text()
            authority.server()  # over the same files
            Path(tmp_path / "127.0.0.1.key").write_text(key)
            gateway.plane.commit(successor)
            for _ in range(2):
                assert (await talk(gateway, authority, ask(close=True))).startswith(b"HTTP/1.1 200 ")
            with pytest.raises(ssl.SSLError):
                reload(gateway)
            assert (await talk(gateway, authority, ask(close=True))).startswith(b"HTTP/1.1 200 ")


def reload(gateway: Inside) -> None:
    plane = gateway.plane
    plane.commit(plane.prepare(plane.snapshot.settings))
