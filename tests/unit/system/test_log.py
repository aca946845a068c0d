"""The log's writer thread: nobody waits for a reader, and every lost line is counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from budgateway.system.log import PIPE_BUF, QueuedHandler, QueuedWriter

CAPACITY = 1000
LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            pass  # closed by the test


def _fill(writing: int) -> int:
    """Write until a pipe takes no more: how many bytes."""
    os.set_blocking(writing, False)
    total = 0
    try:
        while True:
            total += os.write(writing, b"." * PIPE_BUF)
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    return total


def _drain(reading: int, length: int) -> bytes:
    found = b""
    while len(found) < length:
        found += os.read(reading, length - len(found))
    return found


def test_lines_arrive_in_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = QueuedWriter(writing)
    lines = [b"line %d\n" % number for number in range(2000)]
    for line in lines:
        assert writer.put(line)
    assert writer.flush(5)
    writer.close()
    assert _drain(reading, sum(map(len, lines))) == b"".join(lines)
    assert writer.dropped == 0


def test_a_reader_that_stopped_holds_nobody_up_and_what_is_lost_is_counted(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    filled = _fill(writing)
    writer = QueuedWriter(writing, CAPACITY)
    taken = sum(writer.put(LINE) for _ in range(1000))
    assert taken < 1000
    assert writer.dropped == 1000 - taken
    assert not writer.flush(0.01)
    _drain(reading, filled)
    assert _drain(reading, taken * len(LINE)) == taken * LINE
    writer.close(5)


def test_an_end_waits_for_no_reader(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    filled = _fill(writing)
    writer = QueuedWriter(writing)
    writer.put(LINE)
    writer.close(0.01)
    assert not writer.put(LINE)
    _drain(reading, filled + len(LINE))


def test_the_log_says_how_many_lines_were_lost(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    filled = _fill(writing)
    writer = QueuedWriter(writing, CAPACITY)
    handler = QueuedHandler(writer)
    logger = logging.getLogger("budgateway.test_log")
    logger.propagate = False
    logger.addHandler(handler)
    for _ in range(100):
        logger.error("%s", "y" * 99)
    lost = writer.dropped
    assert lost > 80
    _drain(reading, filled)
    assert writer.flush(5)
    logger.error("again")
    assert writer.flush(5)
    logger.removeHandler(handler)
    writer.close()
    os.close(writing)
    with os.fdopen(os.dup(reading)) as stream:
        lines = stream.read().splitlines()
    assert lines[-2:] == ["again", f"{lost} lines of the log were lost: standard error did not accept them"]


def test_a_reader_that_is_gone_is_no_error(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    writer = QueuedWriter(writing)
    writer.put(LINE)
    writer.put(LINE)
    assert writer.flush(5)
    assert writer.dropped == 2
    writer.close()


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    filled = _fill(writing)
    os.set_blocking(writing, False)
    writer = QueuedWriter(writing)
    writer.put(LINE)
    assert not writer.flush(0.01)
    assert _drain(reading, filled + len(LINE)).endswith(LINE)
    assert writer.flush(5)
    assert writer.dropped == 0
    writer.close()
