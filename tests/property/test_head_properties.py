"""The native head scan and chunk scanner against oracles that read the rules one by one."""

from __future__ import annotations

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import chunks, heads

from budgateway._native import (
    CHUNKED,
    KEEP_ALIVE,
    ChunkScanner,
    RequestHead,
    RequestHeadWriter,
    ResponseHead,
    ResponseHeadWriter,
)
from budgateway.errors import BadRequest, UpstreamProtocolError

PIECES = [
    b"/",
    b"..",
    b".",
    b"%2e",
    b"%2F",
    b"%00",
    b"%",
    b"%41",
    b"a",
    b"v1",
    b";",
    b"?",
    b"#",
    b"\\",
    b"{",
    b"//",
    b"@",
    b":",
    b"\x80",
    b"&x=y",
]
PATHS = st.lists(st.sampled_from(PIECES), max_size=5).map(lambda pieces: b"/" + b"".join(pieces))
HOSTS = st.sampled_from(
    [
        b"a",
        b"A.b:80",
        b"a.",
        b"1.2.3.4",
        b"1.2.3",
        b"[::1]:8",
        b"[::1",
        b"a:",
        b"a:99999",
        b"",
        b"a..b",
        b"a,b",
        b"u@a",
        b"x_y",
        b"\xe4",
    ]
)
TARGETS = st.one_of(
    PATHS,
    st.builds(lambda host, path: b"http://" + host + path, HOSTS, st.one_of(PATHS, st.sampled_from([b"", b"?q"]))),
    st.sampled_from([b"*", b"a", b"", b"a:443", b"HTTPS://a"]),
)
METHODS = st.sampled_from([b"GET", b"POST", b"OPTIONS", b"TRACE", b"CONNECT", b"get", b"M-S", b"G(T", b"", b"G\tT"])
VERSIONS = st.sampled_from(
    [b"HTTP/1.1"] * 6 + [b"HTTP/1.0"] * 2 + [b"http/1.1", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.1 ", b""]
)
LINES = st.one_of(
    st.builds(lambda host: b"Host: " + host, HOSTS),
    st.sampled_from(
        [
            b"Content-Length: 5", b"content-length:5", b"Content-Length: +5", b"Content-Length: 5, 5", b"Content-Length:",
            b"Content-Length: 9223372036854775807", b"Content-Length: 9223372036854775808", b"Content-Length: 99999999999999999999",
            b"Transfer-Encoding: chunked", b"TRANSFER-ENCODING:\tChunked\t", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: xchunked",
            b"Transfer_Encoding: chunked", b"Content_Length: 5", b"User_Agent: x", b"x_y: z", b"Content-Type: application/json",
            b"Connection: close", b"Connection: keep-alive, x", b"Connection: a b", b"Connection: ,", b"Expect: 100-Continue", b"Expect: x",
            b"Host : a", b" folded: x", b"\tfolded", b"no colon", b": no name", b"a\x00b: c", b"a: b\x00", b"a: b\x7f", b"a: b\x1f", b"a: b\tc",
            b"a: \xff\x80", b"a:", b"a: \t ", b"a: b\nc: d", b"a: b\rc", b"X" * 40 + b": " + b"y" * 40, b"a\x80: b", b"(a): b",
        ]
    ),
    st.builds(lambda name, value: name + b": " + value, st.binary(max_size=20), st.binary(max_size=20)),
)  # fmt: skip


GOOD_LINES = st.sampled_from(
    [
        b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Content-Type: application/json", b"Connection: close", b"Connection: keep-alive, x",
        b"Expect: 100-continue", b"a: b\tc", b"a: \xff", b"a:", b"x_y: z", b"Accept: */*", b"X-Stainless-Runtime-Version: 3.11.7", b"~!#: \t x \t",
    ]
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A good head, most often, with no more than two things drawn from what is doubtful."""
    doubtful = draw(
        st.sets(st.sampled_from(["method", "target", "version", "host", "line", "repeat", "start"]), max_size=2)
    )
    method = draw(METHODS if "method" in doubtful else st.sampled_from([b"GET", b"POST", b"OPTIONS"]))
    target = draw(
        TARGETS if "target" in doubtful else st.sampled_from([b"/", b"/v1/models?a=b", b"http://a/x", b"/a%20b"])
    )
    version = draw(VERSIONS if "version" in doubtful else st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    host = draw(HOSTS if "host" in doubtful else st.just(b"a"))
    lines = [b"Host: " + host, *draw(st.lists(GOOD_LINES, max_size=3, unique=True))]
    if "line" in doubtful:
        lines.insert(draw(st.integers(0, len(lines))), draw(LINES))
    if "repeat" in doubtful:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(lines)).swapcase())
    start = draw(st.sampled_from([b"\r\n", b"\r\n\r\n", b"\n"])) if "start" in doubtful else b""
    head = b"\r\n".join([b" ".join([method, target, version]), *lines])
    return start + head + b"\r\n\r\n" + draw(st.sampled_from([b"", b"body"]))


@settings(max_examples=400)
@given(requests())
@example(b"GET http://A/ HTTP/1.1\r\nhost: a\r\n\r\n")
@example(b"GET http://a HTTP/1.0\r\n\r\n")
@example(b"GET http://a:80/ HTTP/1.1\r\nhost: A\r\n\r\n")
@example(b"GET https://a/ HTTP/1.1\r\nhost: a:443\r\n\r\n")
@example(b"GET https://a:80/ HTTP/1.1\r\nhost: a\r\n\r\n")
@example(b"GET http://a:80:80/ HTTP/1.1\r\nhost: a:80\r\n\r\n")
def test_the_scan_agrees_with_the_oracle(raw: bytes) -> None:
    try:
        wanted = heads.parse(raw)
    except heads.Refused:
        wanted = "refused"
    try:
        head = RequestHead.parse(raw)
    except BadRequest:
        # A bare LF is an error before the blank line is there to look for.
        assert wanted == "refused" or wanted is None
        return
    if wanted is None:
        assert head is None
        return
    assert head is not None
    assert wanted != "refused"
    assert head.size == raw.index(b"\r\n\r\n", 2) + 4
    assert (head.method.encode(), head.path.encode(), head.query.encode()) == (wanted.method, wanted.path, wanted.query)
    assert head.host.encode() == wanted.host
    assert head.content_length == wanted.content_length
    assert bool(head.flags & CHUNKED) == wanted.chunked
    assert bool(head.flags & KEEP_ALIVE) == wanted.keep_alive
    assert [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head.headers()] == wanted.headers


@given(requests(), st.integers(0, 40))
def test_where_the_head_begins_makes_no_difference(raw: bytes, start: int) -> None:
    def outcome(data: bytes, at: int) -> object:
        try:
            head = RequestHead.parse(data, at)
        except BadRequest as error:
            return str(error)
        return head and (head.size, head.flags, head.headers(), head.path)

    assert outcome(raw, 0) == outcome(b"x" * start + raw, start)


@given(requests(), st.sampled_from([-1, -2, 0, 7]))
def test_what_goes_upstream_is_a_head_again(raw: bytes, content_length: int) -> None:
    """Only allow-listed names, one Host, one length, and a second scan finds what the first one saw."""
    try:
        head = RequestHead.parse(raw)
    except BadRequest:
        return
    if head is None:
        return
    written = RequestHeadWriter("up:1", "", "", ["x", "a"], [("authorization", "k")]).write(
        head, "id-1", content_length
    )
    again = RequestHead.parse(written)
    assert again is not None
    assert again.size == len(written)
    assert (again.method, again.path, again.query, again.host, again.request_id) == (
        head.method,
        head.path,
        head.query,
        "up",
        "id-1",
    )
    allowed = {
        "host",
        "x-request-id",
        "authorization",
        "a",
        "x",
        "accept",
        "content-type",
        "content-length",
        "transfer-encoding",
    }
    assert {name for name, _ in again.headers()} <= allowed
    empty = head.method in ("POST", "PUT", "PATCH") and content_length == -1
    assert again.content_length == (0 if empty else max(content_length, -1))
    assert bool(again.flags & CHUNKED) == (content_length == -2)


@given(
    st.lists(LINES, max_size=6),
    st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.0 204", b"HTTP/1.1 503 \xff", b"HTTP/1.1 600 x", b"HTTP/1.1 2000"]),
)
def test_what_goes_downstream_is_a_head_again(lines: list[bytes], start: bytes) -> None:
    raw = b"\r\n".join([start, *lines]) + b"\r\n\r\n"
    try:
        head = ResponseHead.parse(raw)
    except UpstreamProtocolError:
        return
    if head is None:
        return
    written = ResponseHeadWriter(["x-y"]).write(head, 5 if head.status == 200 else -1, False, "1", b"x-l: 2\r\n", 3, 4)
    again = ResponseHead.parse(written)
    assert again is not None
    assert (again.size, again.status) == (len(written), head.status)
    assert again.content_length == (5 if head.status == 200 else -1)
    assert not again.flags & (CHUNKED | KEEP_ALIVE)
    named = {
        option.strip().lower() for name, value in head.headers() if name == "connection" for option in value.split(",")
    }
    dropped = {"connection", "content-length", "transfer-encoding", "x-request-id"} | named
    told = [("x-request-id", "1"), ("x-l", "2"), ("x-budgateway-attempts", "3"), ("x-budgateway-overhead-us", "4")]
    assert again.headers()[-5:] == [*told, ("connection", "close")]
    dropped |= {name for name, _ in told}
    kept = [(name, value) for name, value in head.headers() if name not in dropped]
    assert [(name, value) for name, value in again.headers() if name not in dropped] == kept


CHUNKS = st.builds(
    lambda data, extension: b"%x%s\r\n%s\r\n" % (len(data), extension, data),
    st.binary(min_size=1, max_size=40),
    st.sampled_from([b"", b"", b"", b";a", b';a="b c"', b";" * 256, b";" * 257, b" ", b";\x00"]),
)
ENDS = st.sampled_from(
    [b"0\r\n\r\n", b"000;x\r\n\r\nGET", b"0\r\na: b\r\nc:\r\n\r\n", b"0\r\nHost: x\r\n\r\n", b"0\r\na : b\r\n\r\n"]
    + [
        b"0\r\n\n",
        b"0\r\na: b\n\r\n",
        b"0\r\n",
        b"5\r\nabc",
        b"5\r\nabcdefg",
        b"g\r\n",
        b"0" * 17 + b"\r\n\r\n",
        b"1\na\r\n0\r\n\r\n",
    ]
)
BODIES = st.builds(lambda chunks, end: b"".join(chunks) + end, st.lists(CHUNKS, max_size=4), ENDS)


@settings(max_examples=200)
@given(BODIES, st.lists(st.integers(0, 300), max_size=8), st.integers(0, 5))
@example(b"1\r\na\r\n0\r\n\r\nGET", [], 0)
def test_the_chunk_scanner_finds_the_end_the_oracle_finds(body: bytes, cuts: list[int], start: int) -> None:
    wanted = chunks.end(body)
    scanner = ChunkScanner()
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    for begin, end in itertools.pairwise(edges):
        try:
            found = scanner.feed(b"x" * start + body[begin:end], start)
        except BadRequest:
            assert wanted == -1
            return
        if found >= 0:
            assert begin + found - start == wanted
            return
    assert wanted == -1
