"""Access lines on their way out: whole on every destination, and none is lost in silence."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import resource
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from books import Books

from budgateway._native import AccessLog, Segment
from budgateway.observe.access import AccessWriter

SEGMENT = Segment()


def a_log(count: int, name: str = "line", capacity: int = 4 << 20) -> AccessLog:
    log = AccessLog(Segment(), capacity)
    add(log, count, name)
    return log


def add(log: AccessLog, count: int, name: str = "line") -> None:
    books = Books(SEGMENT, log)
    for number in range(count):
        books.enter(request_id=f"{name}-{number}")


def names(data: bytes) -> list[str]:
    """Of the lines, each of which must be one JSON object."""
    return [json.loads(line)["request_id"] for line in data.splitlines()]


async def until(holds: Callable[[], bool], *writers: AccessWriter) -> None:
    """Wait until it is so; `writers` are flushed meanwhile, as the sweep does."""
    async with asyncio.timeout(10):
        while not holds():
            for writer in writers:
                writer.flush()
            await asyncio.sleep(0.005)


@contextmanager
def full_from(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size`: writes to it are cut short, then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_writers_that_share_a_pipe_do_not_mix_their_lines(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    logs = [a_log(0), a_log(0)]
    writers = [AccessWriter(log, str(fifo)) for log in logs]
    for index, log in enumerate(logs):
        add(log, 1500, f"writer-{index}")
        Books(SEGMENT, log).enter(request_id="x" * 9000)  # more than a pipe takes whole
    read = bytearray()
    os.set_blocking(reading, True)

    def slowly() -> None:
        while read.count(b"\n") < 3002:
            read.extend(os.read(reading, 3000))

    thread = threading.Thread(target=slowly)
    thread.start()
    for writer in writers:
        writer.flush()
    await until(lambda: not thread.is_alive())
    found = names(bytes(read))
    for index in range(2):
        assert [name for name in found if name.startswith(f"writer-{index}-")] == [
            f"writer-{index}-{number}" for number in range(1500)
        ]
    assert max(map(len, bytes(read).splitlines(keepends=True))) <= select.PIPE_BUF
    for writer in writers:
        await writer.close()
    os.close(reading)
    assert [writer.lost for writer in writers] == [0, 0]


async def test_each_write_to_a_pipe_is_whole_lines_that_it_takes_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    log = a_log(500)
    writer = AccessWriter(log, str(fifo))
    # A pipe in packet mode keeps writes apart, and divides those above PIPE_BUF.
    fcntl.fcntl(writer._fd, fcntl.F_SETFL, fcntl.fcntl(writer._fd, fcntl.F_GETFL) | os.O_DIRECT)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer.flush()
    found: list[str] = []

    def take() -> bool:
        try:
            packet = os.read(reading, 1 << 16)
        except BlockingIOError:
            return False
        assert packet.endswith(b"}\n")
        found.extend(names(packet))
        return len(found) == 500

    await until(take)
    assert found == [f"line-{number}" for number in range(500)]
    await writer.close()
    os.close(reading)


async def test_a_full_disk_leaves_no_half_line_and_loses_none_that_fit_into_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "access.log"
    log, other = a_log(100), a_log(50, "other")
    writer, beside = AccessWriter(log, str(file)), AccessWriter(other, str(file))
    with caplog.at_level(logging.WARNING), full_from(1010):
        writer.flush()
        await until(lambda: "cannot write" in caplog.text)
        # No half line stands there, for anybody to go on with.
        assert file.read_bytes().endswith(b"}\n")
        written = len(names(file.read_bytes()))
        beside.flush()
        add(log, 7, "later")
        await until(lambda: caplog.text.count("cannot write") == 2, writer)
    assert f"{100 - written} lines wait, 0 lines lost" in caplog.text
    await until(lambda: file.read_bytes().count(b"\n") == 157, writer, beside)
    await until(lambda: caplog.text.count("can be written again") == 2, writer, beside)
    found = names(file.read_bytes())
    for name, count in (("line", 100), ("later", 7), ("other", 50)):
        assert [one for one in found if one.startswith(name)] == [f"{name}-{number}" for number in range(count)]
    for each in (writer, beside):
        await each.close()


async def test_lines_that_a_full_disk_costs_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "access.log"
    log = a_log(100, capacity=8000)
    writer = AccessWriter(log, str(file))
    with caplog.at_level(logging.WARNING), full_from(1010):
        writer.flush()
        await until(lambda: "cannot write" in caplog.text)
        add(log, 500)
        await writer.close()
    written = len(names(file.read_bytes()))
    assert writer.lost == 600 - written
    assert f"{writer.lost} lines lost" in caplog.text
    await writer.close()  # idempotent


async def test_half_a_line_of_a_process_that_was_killed_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = a_log(1)
    writer = AccessWriter(log, str(file))
    with file.open("ab") as killed:
        killed.write(b'{"ts":"2026')
    writer.flush()
    await until(lambda: file.read_bytes().endswith(b"}\n"))
    half, whole = file.read_bytes().splitlines()
    assert (half, names(whole)) == (b'{"ts":"2026', ["line-0"])
    await writer.close()


async def test_nobody_writes_while_another_process_has_written_half_a_line(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    pid = os.fork()
    if pid == 0:
        # Another worker, in the middle of a line: the lock is its own until it ends.
        with file.open("ab", buffering=0) as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX)
            stream.write(b'{"request_id":')
            time.sleep(0.3)
            stream.write(b'"theirs"}\n')
            os._exit(0)
    await until(lambda: file.exists() and file.stat().st_size > 0)
    writer = AccessWriter(a_log(1), str(file))
    writer.flush()
    await until(lambda: file.read_bytes().count(b"\n") == 2)
    os.waitpid(pid, 0)
    assert names(file.read_bytes()) == ["theirs", "line-0"]
    await writer.close()


async def test_a_renamed_file_is_left_for_a_new_one_of_the_same_owner_and_mode(tmp_path: Path) -> None:
    file, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log = a_log(1)
    writer = AccessWriter(log, str(file))
    writer.flush()
    await until(lambda: file.stat().st_size > 0)
    file.chmod(0o604)
    if os.getuid() == 0:
        os.chown(file, 65534, 65534)
    file.rename(old)
    writer.reopen()
    await until(file.exists)
    add(log, 1, "after")
    writer.flush()
    await until(lambda: file.stat().st_size > 0)
    assert (names(old.read_bytes()), names(file.read_bytes())) == (["line-0"], ["after-0"])
    then, now = old.stat(), file.stat()
    assert (now.st_mode, now.st_uid, now.st_gid) == (then.st_mode, then.st_uid, then.st_gid)
    await writer.close()


async def test_a_renamed_file_is_noticed_without_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budgateway.observe.access.FOLLOW_S", 0.0)
    file = tmp_path / "access.log"
    log = a_log(1)
    writer = AccessWriter(log, str(file))
    writer.flush()
    await until(lambda: file.stat().st_size > 0)
    file.rename(tmp_path / "access.log.1")
    (tmp_path / "access.log").touch(0o600)  # logrotate's create
    add(log, 1, "after")
    writer.flush()
    await until(lambda: file.stat().st_size > 0)
    assert names(file.read_bytes()) == ["after-0"]
    await writer.close()


async def test_a_file_that_is_copied_and_emptied_goes_on_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = a_log(10)
    writer = AccessWriter(log, str(file))
    writer.flush()
    await until(lambda: file.stat().st_size > 0)
    os.truncate(file, 0)
    add(log, 1, "after")
    writer.flush()
    await until(lambda: file.stat().st_size > 0)
    assert names(file.read_bytes()) == ["after-0"]
    await writer.close()


async def test_a_file_that_cannot_be_opened_anew_is_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file, aside = folder / "access.log", tmp_path / "aside"
    log = a_log(1)
    writer = AccessWriter(log, str(file))
    folder.rename(aside)
    with caplog.at_level(logging.ERROR):
        writer.reopen()
        await until(lambda: "cannot reopen" in caplog.text)
        writer.reopen()
        await until(lambda: (aside / "access.log").stat().st_size > 0, writer)
    assert caplog.text.count("cannot reopen") == 1
    assert names((aside / "access.log").read_bytes()) == ["line-0"]
    await writer.close()


async def test_a_reader_that_stands_still_keeps_nobody_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("budgateway.observe.access.CLOSE_S", 0.1)
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    log = a_log(3000)
    writer = AccessWriter(log, str(fifo))
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    began = time.monotonic()
    writer.flush()
    with caplog.at_level(logging.WARNING):
        await writer.close()
    assert time.monotonic() - began < 20
    got = names(os.read(reading, 1 << 20))
    assert len(got) + writer.lost == 3000
    assert f"{writer.lost} lines lost" in caplog.text
    os.close(reading)


async def test_a_pipe_that_does_not_wait_is_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    log = a_log(3000)
    writer = AccessWriter(log, str(fifo))
    os.set_blocking(writer._fd, False)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    read = bytearray()

    def take() -> bool:
        try:
            read.extend(os.read(reading, 1 << 16))
        except BlockingIOError:
            pass
        return read.count(b"\n") == 3000

    writer.flush()
    await until(take)
    assert names(bytes(read)) == [f"line-{number}" for number in range(3000)]
    await writer.close()
    os.close(reading)
    assert writer.lost == 0
