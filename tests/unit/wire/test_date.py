"""The date of an answer is what RFC 9110 5.6.7 says, whatever the machine's language."""

from __future__ import annotations

import time
from email.utils import formatdate, parsedate_to_datetime

from hypothesis import given
from hypothesis import strategies as st

from budgateway.wire.date import date_line, date_line_of


@given(st.integers(0, 32_503_680_000))
def test_it_is_an_imf_fixdate(second: int) -> None:
    assert date_line_of(second) == f"date: {formatdate(second, usegmt=True)}"


def test_it_is_now() -> None:
    said = parsedate_to_datetime(date_line().removeprefix("date: ")).timestamp()
    assert abs(said - time.time()) < 2
