"""The rig's own reading of HTTP is as strict as a gateway must be."""

from __future__ import annotations

import pytest
from upstreams.wire import NotHttp, RequestScanner, chunked, decode_chunked

GOOD = b"POST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked([b"ab", b"c"])


def test_requests_are_found_one_byte_at_a_time() -> None:
    scanner = RequestScanner()
    found = []
    for byte in GOOD + CHUNKED + GOOD:
        scanner.feed(bytes([byte]))
        if request := scanner.take(0):
            found.append((request.target, request.body, request.raw))
    assert found == [("/v1/x?y=1", b"abc", GOOD), ("/", b"abc", CHUNKED), ("/v1/x?y=1", b"abc", GOOD)]
    assert scanner.pending == 0


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"POST /", b"POST  /"),
        (b"Host: a", b"Hots: a"),
        (b"Host: a", b"Host: a\r\nHost: a"),
        (b"Host: a", b"Host: a\r\n folded: b"),
        (b"Host: a", b"Host : a"),
        (b"Host: a", b"Host: a\x00"),
        (b"Length: 3", b"Length: +3"),
        (b"Length: 3", b"Length: 3\r\nContent-Length: 3"),
        (b"Length: 3", b"Length: 3\r\nTransfer-Encoding: chunked"),
        (b"Content-Length: 3", b"Transfer-Encoding: gzip, chunked"),
    ],
)
def test_what_a_gateway_must_not_send_is_refused(good: bytes, bad: bytes) -> None:
    assert good in GOOD
    scanner = RequestScanner()
    scanner.feed(GOOD.replace(good, bad))
    with pytest.raises(NotHttp):
        scanner.take(0)


@pytest.mark.parametrize(
    "body", [b"2\nab\r\n0\r\n\r\n", b"2\r\nabc\r\n0\r\n\r\n", b"2;x=y\r\nab\r\n0\r\n\r\n", b"zz\r\n"]
)
def test_bad_chunks_are_refused(body: bytes) -> None:
    with pytest.raises(NotHttp):
        decode_chunked(body)
