"""The opening handshake: what a client may ask, what goes upstream, what an upstream may answer."""

from __future__ import annotations

import pytest

from budgateway.errors import UpstreamProtocolError
from budgateway.native import RequestHead, ResponseHead
from budgateway.wire.websocket import (
    Handshake,
    accept_of,
    close_frame,
    credential_of,
    with_model,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def asked(*lines: str) -> RequestHead:
    text = "\r\n".join(
        (
            "GET /v1/realtime HTTP/1.1", "host: a", "connection: keep-alive, Upgrade", "upgrade: websocket",
            "sec-websocket-version: 13", f"sec-websocket-key: {KEY}", *lines,
        )
    )  # fmt: skip
    head = RequestHead.parse(f"{text}\r\n\r\n".encode())
    assert head is not None
    return head


def answered(handshake: Handshake, *lines: str) -> ResponseHead:
    plain = handshake.request(b"GET / HTTP/1.1\r\nhost: b\r\n\r\n", asked())
    key = next(line for line in plain.decode().split("\r\n") if line.startswith("sec-websocket-key: "))[19:]
    text = "\r\n".join(
        (
            "HTTP/1.1 101 Ok",
            "connection: upgrade",
            "upgrade: WebSocket",
            f"sec-websocket-accept: {accept_of(key)}",
            *lines,
        )
    )
    head = ResponseHead.parse(f"{text}\r\n\r\n".encode())
    assert head is not None
    return head


def test_the_accept_of_the_rfc() -> None:
    assert accept_of(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_each_handshake_has_a_key_of_its_own() -> None:
    head = b"GET / HTTP/1.1\r\n\r\n"
    requests = {Handshake.read(asked(), compression=True).request(head, asked()) for _ in range(3)}
    assert len(requests) == 3
    assert not any(KEY.encode() in request for request in requests)


def test_credentials_among_the_subprotocols_stay_here() -> None:
    head = asked(
        "sec-websocket-protocol: realtime, openai-insecure-api-key.sk-1", "sec-websocket-protocol: openai-project.p"
    )
    assert Handshake.read(head, compression=True).protocols == ("realtime",)
    assert credential_of(head) == "sk-1"
    assert credential_of(asked("sec-websocket-protocol: realtime")) is None
    assert credential_of(asked("sec-websocket-protocol: openai-insecure-api-key.")) is None


def test_only_permessage_deflate_is_offered_upstream() -> None:
    offer = "permessage-deflate; client_max_window_bits; server_max_window_bits=10"
    head = asked(f"sec-websocket-extensions: x-other, {offer}", 'sec-websocket-extensions: permessage-deflate; "odd"')
    assert Handshake.read(head, compression=True).offers == (offer,)
    assert Handshake.read(head, compression=False).offers == ()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("sec-websocket-protocol: other",), "subprotocol"),
        (("sec-websocket-protocol: chat, chat",), "subprotocol"),
        (("sec-websocket-extensions: permessage-deflate",), "extension"),
        (("sec-websocket-accept: x",), "accept"),
        (("upgrade: h2c",), "protocol"),
    ],
)
def test_an_upstream_chooses_only_among_what_was_offered(lines: tuple[str, ...], message: str) -> None:
    handshake = Handshake.read(asked("sec-websocket-protocol: chat"), compression=True)
    with pytest.raises(UpstreamProtocolError, match=message):
        handshake.accept(answered(handshake, *lines))


def test_what_was_agreed_upon_is_told_to_the_client() -> None:
    handshake = Handshake.read(
        asked("sec-websocket-protocol: a, chat", "sec-websocket-extensions: permessage-deflate"), compression=True
    )
    lines = handshake.accept(
        answered(handshake, "sec-websocket-protocol: chat", "sec-websocket-extensions: permessage-deflate")
    )
    assert lines.decode().split("\r\n") == [
        "connection: Upgrade", "upgrade: websocket", f"sec-websocket-accept: {accept_of(KEY)}",
        "sec-websocket-protocol: chat", "sec-websocket-extensions: permessage-deflate", "",
    ]  # fmt: skip
    assert handshake.deflate


def test_a_model_is_renamed_where_it_stands() -> None:
    assert with_model(b"GET /p?a=%20&model=x&b HTTP/1.1", "n/m o") == b"GET /p?a=%20&model=n%2Fm%20o&b HTTP/1.1"


def test_a_close_frame_is_masked_towards_a_server() -> None:
    assert close_frame(1001, "bye", masked=False) == b"\x88\x05\x03\xe9bye"
    frame = close_frame(1011, "x" * 200, masked=True)
    mask, payload = frame[2:6], frame[6:]
    assert frame[:2] == b"\x88\xfd"
    assert bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) == b"\x03\xf3" + b"x" * 123
