"""A request head read the slow way, rule by rule from RELIABILITY 3.8; the native scan must agree on every head."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
ONCE = (b"host", b"content-length", b"transfer-encoding", b"content-type")
PATH = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")


class Refused(Exception):
    """The head is no head."""


@dataclass
class Head:
    """A head as the oracle parsed it."""

    method: bytes
    path: bytes
    query: bytes
    host: bytes
    content_length: int = -1
    chunked: bool = False
    keep_alive: bool = True
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


def refuse_unless(condition: object) -> None:
    if not condition:
        raise Refused


def parse(raw: bytes) -> Head | None:
    """The head that `raw` is; None while it is incomplete. Only for heads within the limits."""
    if b"\r\n\r\n" not in raw.removeprefix(b"\r\n"):
        return None
    raw = raw.removeprefix(b"\r\n")
    text = raw[: raw.index(b"\r\n\r\n")]
    refuse_unless(not text.startswith(b"\r\n"))
    lines = text.split(b"\r\n")
    refuse_unless(not any((byte < 0x20 and byte != 9) or byte == 0x7F for line in lines for byte in line))
    parts = lines[0].split(b" ")
    refuse_unless(len(parts) == 3)
    method, target, version = parts
    refuse_unless(TOKEN.fullmatch(method) and method not in (b"CONNECT", b"TRACE"))
    refuse_unless(version in (b"HTTP/1.0", b"HTTP/1.1"))
    old = version == b"HTTP/1.0"
    headers = [header(line) for line in lines[1:]]
    names = [name for name, _ in headers]
    values = dict(reversed(headers))
    refuse_unless(all(names.count(name) <= 1 for name in ONCE))
    head = Head(method, *split_target(target, method), host=b"", headers=headers)
    authority = re.match(rb"(?i)https?://([^/?]*)", target)
    if b"host" in values:
        if authority is not None:
            port = b":443" if target[:5].lower() == b"https" else b":80"
            one, other = (value.lower().removesuffix(port) for value in (authority[1], values[b"host"]))
            refuse_unless(one == other)
        head.host = host(values[b"host"])
    elif authority:
        refuse_unless(old)
        head.host = host(authority[1])
    else:
        refuse_unless(old)
    if b"content-length" in values:
        length = values[b"content-length"]
        refuse_unless(re.fullmatch(rb"[0-9]{1,19}", length) and int(length) < 2**63)
        head.content_length = int(length)
    if b"transfer-encoding" in values:
        refuse_unless(values[b"transfer-encoding"].lower() == b"chunked" and not old and head.content_length < 0)
        head.chunked = True
    refuse_unless(all(value.lower() == b"100-continue" for name, value in headers if name == b"expect"))
    options = [
        option.strip(b" \t").lower() for name, value in headers if name == b"connection" for option in value.split(b",")
    ]
    refuse_unless(all(TOKEN.fullmatch(option) for option in options if option))
    head.keep_alive = b"close" not in options and (not old or b"keep-alive" in options)
    return head


def header(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    refuse_unless(colon and TOKEN.fullmatch(name))
    if b"_" in name:
        refuse_unless(name.replace(b"_", b"-").lower() not in (*ONCE, b"connection", b"expect", b"user-agent"))
    return name.lower(), value.strip(b" \t")


def split_target(target: bytes, method: bytes) -> tuple[bytes, bytes]:
    if target == b"*" and method == b"OPTIONS":
        return target, b""
    absolute = re.match(rb"(?i)https?://[^/?]*", target)
    if absolute:
        target = target[absolute.end() :]
        if not target.startswith(b"/"):
            target = b"/" + target
    path, _, query = target.partition(b"?")
    refuse_unless(PATH.fullmatch(path) and re.fullmatch(rb"[!-~]*", query) and b"#" not in query)
    refuse_unless(b"//" not in path)
    for code in re.findall(rb"%(..)", path):
        byte = int(code, 16)
        refuse_unless(byte >= 0x20 and byte not in (0x7F, 0xC0, 0xC1) and byte not in b"/\\")
    for segment in path.split(b"/"):
        refuse_unless(unquote_to_bytes(segment.partition(b";")[0]) not in (b".", b".."))
    return path, query


def host(value: bytes) -> bytes:
    match = re.fullmatch(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-_~.]+)(?::([0-9]{1,5}))?", value)
    refuse_unless(match and (match[2] is None or int(match[2]) < 65536))
    assert match is not None
    name = match[1]
    try:
        if name.startswith(b"["):
            ipaddress.IPv6Address(name[1:-1].decode())
            return name.lower()
        name = name.removesuffix(b".")
        refuse_unless(name and all(name.split(b".")) and len(name) <= 255)
        if name.split(b".")[-1].isdigit():
            ipaddress.IPv4Address(name.decode())
    except ipaddress.AddressValueError:
        raise Refused from None
    return name.lower()
