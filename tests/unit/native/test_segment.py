"""The shared segment: labels, slots, gauges, and who may map it."""

from __future__ import annotations

import os

import pytest

from budgateway import _native
from budgateway._native import Segment


def test_a_label_has_one_id_in_every_mapping() -> None:
    one = Segment(2)
    two = Segment.attach(one.fd)
    ids = [one.intern("vllm"), two.intern("openai"), one.intern("openai"), two.intern("vllm")]
    assert ids == [1, 2, 2, 1]
    assert [two.label(label) for label in (0, 1, 2, 3, 10**6)] == ["other", "vllm", "openai", "other", "other"]
    assert (two.workers, two.size) == (2, one.size)


def test_no_name_is_other() -> None:
    assert Segment().intern("") == 0


def test_full_labels_become_other() -> None:
    segment = Segment()
    ids = [segment.intern(f"label-{number}") for number in range(3000)]
    assert ids[:2047] == list(range(1, 2048))
    assert set(ids[2047:]) == {0}
    assert segment.intern("label-17") == 18


def test_a_long_name_is_cut_and_stays_distinct() -> None:
    segment = Segment()
    one, two = segment.intern("é" * 200 + "1"), segment.intern("é" * 200 + "2")
    assert one != two
    assert segment.label(one).startswith("é" * 50)
    assert len(segment.label(one).encode()) <= 118


def test_an_attached_segment_outlives_the_first_mapping() -> None:
    one = Segment()
    two = Segment.attach(one.fd)
    one.intern("kept")
    del one
    assert two.label(1) == "kept"


def test_a_dropped_segment_closes_its_descriptor() -> None:
    segment = Segment()
    fd = segment.fd
    os.fstat(fd)
    del segment
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


def test_a_descriptor_is_not_inherited_unless_passed() -> None:
    assert not os.get_inheritable(Segment().fd)


def test_nothing_else_can_be_attached() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(ValueError, match="not a segment of this version"):
            Segment.attach(read)
    finally:
        os.close(read)
        os.close(write)
    with pytest.raises(OSError):
        Segment.attach(10**6)


def test_a_file_that_is_as_long_is_still_no_segment(tmp_path: object) -> None:
    fd = os.memfd_create("forged")
    try:
        os.truncate(fd, Segment().size)
        with pytest.raises(ValueError, match="not a segment"):
            Segment.attach(fd)
    finally:
        os.close(fd)


def test_upstreams_keep_their_slots_until_none_is_left() -> None:
    segment = Segment()
    slots = [segment.upstream(f"http://{number}") for number in range(1024)]
    assert slots == list(range(1024))
    assert segment.upstream("http://7") == 7
    with pytest.raises(
        ValueError, match=r"no slot left for upstream 'http://more': .* `serve --take-over` begins anew"
    ):
        segment.upstream("http://more")
    with pytest.raises(ValueError, match="must have a URL"):
        segment.upstream("")


def test_gauges_are_by_worker_and_cleared_with_it() -> None:
    segment = Segment(2)
    gauges = [getattr(_native, name) for name in dir(_native) if name.startswith("GAUGE_")]
    assert len(set(gauges)) == len(gauges)
    for worker in (0, 1):
        for gauge in gauges:
            segment.add(worker, gauge, gauge + 5)
            segment.add(worker, gauge, -2)
    segment.clear_worker(1)
    assert [[segment.gauge(worker, gauge) for gauge in sorted(gauges)] for worker in (0, 1)] == [
        [gauge + 3 for gauge in sorted(gauges)],
        [0] * len(gauges),
    ]


@pytest.mark.parametrize("workers", [0, 65])
def test_rows_are_bounded(workers: int) -> None:
    with pytest.raises(ValueError, match="1 to 64 workers"):
        Segment(workers)


def test_a_worker_or_gauge_that_is_not_there_is_refused() -> None:
    segment = Segment(2)
    for call in (lambda: segment.clear_worker(2), lambda: segment.gauge(2, 0), lambda: segment.add(0, 99, 1)):
        with pytest.raises(ValueError, match="out of range"):
            call()


def test_untouched_memory_is_not_resident() -> None:
    segment = Segment(64)
    assert segment.size > 16 << 20
    assert os.fstat(segment.fd).st_blocks * 512 < 64 << 10
