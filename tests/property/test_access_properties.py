"""Access lines: whatever goes in, each line is one JSON object that says it."""

from __future__ import annotations

import datetime
import json

from books import Books
from hypothesis import given
from hypothesis import strategies as st

from budgateway._native import AccessLog, RequestHead, Segment

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
texts = st.text(max_size=40)
numbers = st.integers(0, 2**63 - 1)
NUMBERS = ["attempts", "bytes_in", "bytes_out"]
TEXTS = ["request_id", "client", "principal", "upstream", "model", "error"]

SEGMENT = Segment()
LOG = AccessLog(SEGMENT)


@given(
    texts=st.fixed_dictionaries(dict.fromkeys(TEXTS, texts)),
    numbers=st.fixed_dictionaries(dict.fromkeys(NUMBERS, numbers)),
    status=st.integers(0, 999),
    times=st.tuples(numbers, numbers, numbers).map(sorted),
    overhead_ns=numbers,
    is_stream=st.booleans(),
)
def test_a_line_says_what_went_in(
    texts: dict[str, str], numbers: dict[str, int], status: int, times: list[int], overhead_ns: int, is_stream: bool
) -> None:
    started_ns, first_ns, ended_ns = times
    Books(SEGMENT, LOG, -started_ns).enter(
        status=status,
        is_stream=is_stream,
        started_ns=started_ns,
        first_ns=first_ns,
        ended_ns=ended_ns,
        overhead_ns=overhead_ns,
        **texts,
        **numbers,
    )
    block = LOG.drain()
    assert block.count(b"\n") == 1
    assert block.endswith(b"}\n")
    line = json.loads(block, parse_float=lambda text: int(text.replace(".", "")))
    assert [line.pop(f"tokens_{kind}") for kind in ("in", "out", "cached", "reasoning")] == [0] * 4
    expected: dict[str, object] = {name: text for name, text in texts.items() if text}
    expected |= numbers | {"status": status, "outcome": "complete", "stream": is_stream}
    expected |= {"ts": "1970-01-01T00:00:00.000Z"}
    # As thousandths, which is what the float was read as.
    expected |= {"duration_ms": (ended_ns - started_ns) // 1000, "overhead_us": overhead_ns}
    expected |= {"ttft_ms": (first_ns - started_ns) // 1000} if first_ns > started_ns else {}
    assert line == expected


@given(st.integers(-(2**63) // 1_000_000 + 1, 2**63 // 1_000_000 - 1))
def test_timestamps_are_pythons(unix_ms: int) -> None:
    Books(SEGMENT, LOG, unix_ms * 1_000_000).enter()
    then = EPOCH + datetime.timedelta(milliseconds=unix_ms)
    assert json.loads(LOG.drain())["ts"] == then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@given(st.text("abcXYZ019-_~!$&'()*+,;=:@", max_size=30))
def test_the_head_gives_method_and_path(name: str) -> None:
    head = RequestHead.parse(f"GET /{name}?secret=1 HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    Books(SEGMENT, LOG).enter(head=head)
    line = json.loads(LOG.drain())
    assert (line["method"], line["path"]) == ("GET", f"/{name}")
