"""Peek and splice of real request shapes, beside what a Python gateway would do instead: loads, edit, dumps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from budgateway._native import Peeker

orjson = pytest.importorskip("orjson", reason="the yardstick is not installed")

DATA = Path(__file__).parents[2] / "tests" / "data"
BODIES = {"300B": (DATA / "chat-300.json").read_bytes(), "20KB": (DATA / "chat-20k.json").read_bytes()}
BODIES["20KB-ascii"] = json.dumps(json.loads(BODIES["20KB"])).encode()  # as Python's json writes it

PEEKER = Peeker()
NAME = "another-model"
EDITS = (("model", json.dumps(NAME).encode()),)


def peek_compiled(body: bytes) -> str | None:
    return PEEKER.peek(body).model


def peek_splice_compiled(body: bytes) -> bytes:
    return PEEKER.peek(body).rewrite(EDITS)


def loads_dumps_orjson(body: bytes) -> bytes:
    document = orjson.loads(body)
    document["model"] = NAME
    return bytes(orjson.dumps(document))


def loads_dumps_json(body: bytes) -> bytes:
    document = json.loads(body)
    document["model"] = NAME
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("size", BODIES)
@pytest.mark.parametrize("way", [peek_compiled, peek_splice_compiled, loads_dumps_orjson, loads_dumps_json])
def test_json(benchmark: BenchmarkFixture, way: Callable[[bytes], object], size: str) -> None:
    benchmark.group = f"json {size}"
    assert benchmark(way, BODIES[size])
