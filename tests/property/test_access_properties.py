"""Access lines: whatever goes in, each line is one JSON object that says it."""

from __future__ import annotations

import datetime
import json

from hypothesis import given
from hypothesis import strategies as st

from budgateway._native import AccessLog, RequestHead, Segment

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
texts = st.text(max_size=40)
numbers = st.integers(-1, 2**63 - 1)
NUMBERS = ["status", "attempts", "bytes_in", "bytes_out", "tokens_in", "tokens_out", "tokens_cached"]
TEXTS = ["request_id", "client", "principal", "upstream", "model", "error"]

SEGMENT = Segment()


@given(
    texts=st.fixed_dictionaries(dict.fromkeys(TEXTS, texts)),
    numbers=st.fixed_dictionaries(dict.fromkeys(NUMBERS, numbers)),
    times=st.tuples(numbers, numbers, numbers),
    stream=st.booleans(),
)
def test_a_line_says_what_went_in(
    texts: dict[str, str], numbers: dict[str, int], times: tuple[int, int, int], stream: bool
) -> None:
    log = AccessLog(SEGMENT)
    duration_ns, overhead_ns, first_byte_ns = times
    log.append(
        unix_ms=0,
        head=None,
        route=0,
        provider=0,
        outcome=0,
        stream=stream,
        duration_ns=duration_ns,
        overhead_ns=overhead_ns,
        first_byte_ns=first_byte_ns,
        **texts,
        **numbers,
    )
    block = log.drain()
    assert block.count(b"\n") == 1
    assert block.endswith(b"}\n")
    line = json.loads(block, parse_float=lambda text: int(text.replace(".", "")))
    expected = {name: text for name, text in texts.items() if text}
    expected |= {name: number for name, number in numbers.items() if number >= 0}
    expected |= {"ts": "1970-01-01T00:00:00.000Z", "outcome": "complete", "stream": stream}
    # As thousandths, which is what the float was read as.
    expected |= {"duration_ms": duration_ns // 1000} if duration_ns >= 0 else {}
    expected |= {"overhead_us": overhead_ns} if overhead_ns >= 0 else {}
    expected |= {"ttft_ms": first_byte_ns // 1000} if first_byte_ns > 0 else {}
    assert line == expected


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_timestamps_are_pythons(unix_ms: int) -> None:
    log = AccessLog(SEGMENT)
    log.append(unix_ms, None, "", "", "", 0, 0, "", "", -1, 0, "", -1, False, -1, -1, -1, -1, 0, -1, -1, -1)
    then = EPOCH + datetime.timedelta(milliseconds=unix_ms)
    assert json.loads(log.drain())["ts"] == then.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@given(st.text("abcXYZ019-_~!$&'()*+,;=:@", max_size=30))
def test_the_head_gives_method_and_path(name: str) -> None:
    log = AccessLog(SEGMENT)
    head = RequestHead.parse(f"GET /{name}?secret=1 HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    log.append(0, head, "", "", "", 0, 0, "", "", -1, 0, "", -1, False, -1, -1, -1, -1, 0, -1, -1, -1)
    line = json.loads(log.drain())
    assert (line["method"], line["path"]) == ("GET", f"/{name}")
