"""The WebSocket opening handshake (RFC 6455 4): parsed from a client, sent to an upstream, its answer checked."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_plus

from budgateway import native
from budgateway.errors import BadRequest, UpgradeRequired, UpstreamProtocolError

if TYPE_CHECKING:
    from budgateway.native import RequestHead, ResponseHead

# RFC 6455 1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# RFC 7692 7: a parameter is a name, or a name and a number, quoted or not.
_DEFLATE = re.compile(r'permessage-deflate(?:[ \t]*;[ \t]*[a-z_]+(?:[ \t]*=[ \t]*"?[0-9]{1,2}"?)?)*')
MAX_PROTOCOLS = 32

# Headers of an upstream's 101 that the gateway writes anew for the client.
SWITCH_LINES = (
    "sec-websocket-accept",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "sec-websocket-version",
)

# Browsers cannot set headers, so OpenAI's clients send these as subprotocols: a credential, and the organization or
# project to bill.
CREDENTIAL_PROTOCOL = "openai-insecure-api-key."
_PRIVATE_PROTOCOLS = (CREDENTIAL_PROTOCOL, "openai-organization.", "openai-project.")


class Handshake:
    """A client's handshake, and the matching one with its upstream. Each has its own key."""

    __slots__ = ("_client_key", "_key", "deflate", "model", "offers", "protocols")

    def __init__(self, client_key: str, protocols: tuple[str, ...], offers: tuple[str, ...]) -> None:
        self._client_key = client_key
        self._key = base64.b64encode(os.urandom(16)).decode()
        self.protocols = protocols  # to offer upstream
        self.offers = offers  # of permessage-deflate, to pass on
        self.model = ""  # the upstream's name for the model, where it differs from the client's
        self.deflate = False  # negotiated with the upstream

    @classmethod
    def read(cls, head: RequestHead, *, compression: bool) -> Handshake:
        """Parse a client's request. UpgradeRequired when it does not request a WebSocket of version 13, BadRequest when
        its handshake is malformed."""
        flags = head.flags
        given: dict[str, list[str]] = {}
        for name, value in head.headers():
            if name == "upgrade" or name.startswith("sec-websocket-"):
                given.setdefault(name, []).append(value)
        wanted = [word.strip().lower() for value in given.get("upgrade", ()) for word in value.split(",")]
        if not flags & native.UPGRADE or "websocket" not in wanted:
            raise UpgradeRequired("this route speaks only WebSocket: the request must ask for an upgrade")
        if head.method != "GET" or flags & native.HTTP_10:
            raise BadRequest("a WebSocket handshake is a GET in HTTP/1.1")
        if head.content_length > 0 or head.header("transfer-encoding") is not None:
            raise BadRequest("a WebSocket handshake has no body")
        if given.get("sec-websocket-version") != ["13"]:
            raise UpgradeRequired("the WebSocket version must be 13")
        keys = given.get("sec-websocket-key", [])
        if len(keys) != 1 or not _is_key(keys[0]):
            raise BadRequest("sec-websocket-key must be 16 bytes in base64, once")
        protocols = _words(given.get("sec-websocket-protocol", []))
        if len(protocols) > MAX_PROTOCOLS or len(set(protocols)) != len(protocols):
            raise BadRequest("sec-websocket-protocol names too many protocols, or one twice")
        if not all(map(_TOKEN.fullmatch, protocols)):
            raise BadRequest("sec-websocket-protocol is malformed")
        offers = _words(given.get("sec-websocket-extensions", [])) if compression else []
        return cls(
            keys[0],
            tuple(name for name in protocols if not name.startswith(_PRIVATE_PROTOCOLS)),
            tuple(offer for offer in offers if _DEFLATE.fullmatch(offer)),
        )

    def request(self, head: bytes, client: RequestHead) -> bytes:
        """Return the handshake to send: this upstream's plain request `head` with the WebSocket headers added."""
        line, _, rest = head.partition(b"\r\n")
        if self.model:
            line = with_model(line, self.model)
        lines = [
            "connection: Upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            f"sec-websocket-key: {self._key}",
        ]
        if self.protocols:
            lines.append(f"sec-websocket-protocol: {', '.join(self.protocols)}")
        if self.offers:
            lines.append(f"sec-websocket-extensions: {', '.join(self.offers)}")
        beta = client.header("openai-beta")
        if beta is not None and b"\r\nopenai-beta:" not in head:
            lines.append(f"openai-beta: {beta}")  # selects OpenAI's realtime API
        return b"%b\r\n%b\r\n%b" % (line, "\r\n".join(lines).encode("latin-1"), rest)

    def accept(self, head: ResponseHead) -> bytes:
        """Return the header lines of the client's 101. UpstreamProtocolError when the upstream's 101 does not match our
        handshake."""
        given: dict[str, list[str]] = {}
        for name, value in head.headers():
            if name in ("upgrade", "connection") or name.startswith("sec-websocket-"):
                given.setdefault(name, []).append(value)
        if [value.lower() for value in given.get("upgrade", [])] != ["websocket"] or "upgrade" not in [
            word.lower() for word in _words(given.get("connection", []))
        ]:
            raise UpstreamProtocolError("the upstream switched to a protocol other than WebSocket")
        if given.get("sec-websocket-accept") != [accept_of(self._key)]:
            raise UpstreamProtocolError("the upstream's sec-websocket-accept is not the answer to our key")
        lines = [
            "connection: Upgrade",
            "upgrade: websocket",
            f"sec-websocket-accept: {accept_of(self._client_key)}",
        ]
        chosen = given.get("sec-websocket-protocol", [])
        if chosen:
            if len(chosen) != 1 or chosen[0] not in self.protocols:
                raise UpstreamProtocolError("the upstream chose a subprotocol that was not offered")
            lines.append(f"sec-websocket-protocol: {chosen[0]}")
        extensions = _words(given.get("sec-websocket-extensions", []))
        if extensions:
            if len(extensions) != 1 or not self.offers or not _DEFLATE.fullmatch(extensions[0]):
                raise UpstreamProtocolError("the upstream chose an extension that was not offered")
            self.deflate = True
            lines.append(f"sec-websocket-extensions: {extensions[0]}")
        return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def accept_of(key: str) -> str:
    """Return the Sec-WebSocket-Accept for a key (RFC 6455 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def credential_of(head: RequestHead) -> str | None:
    """Return the API key that OpenAI's browser clients send as a subprotocol, or None."""
    for name, value in head.headers():
        if name == "sec-websocket-protocol":
            for protocol in _words([value]):
                if protocol.startswith(CREDENTIAL_PROTOCOL):
                    return protocol.removeprefix(CREDENTIAL_PROTOCOL) or None
    return None


def with_model(line: bytes, model: str) -> bytes:
    """Replace the model in a request line's query."""
    target, _, version = line.rpartition(b" ")
    path, _, query = target.partition(b"?")
    parts = [
        b"model=" + quote(model, safe="").encode()
        if unquote_plus(part.partition(b"=")[0].decode("latin-1")) == "model"
        else part
        for part in query.split(b"&")
    ]
    return b"%b?%b %b" % (path, b"&".join(parts), version)


def close_frame(code: int, reason: str, *, masked: bool) -> bytes:
    """Return a close frame (RFC 6455 5.5.1), masked when it goes to a server."""
    payload = struct.pack("!H", code) + reason.encode()[:123]
    if not masked:
        return bytes((0x88, len(payload))) + payload
    mask = os.urandom(4)
    return bytes((0x88, 0x80 | len(payload))) + mask + bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))


def _is_key(text: str) -> bool:
    try:
        return len(text) == 24 and len(base64.b64decode(text, validate=True)) == 16
    except ValueError:
        return False


def _words(values: list[str]) -> list[str]:
    """Return the members of comma-separated lists, from all lines together. No value that we pass on has a comma inside
    quotes."""
    return [word for value in values for item in value.split(",") if (word := item.strip(" \t"))]
