"""The header `retry-after`."""

from __future__ import annotations

import pytest

from budgateway.wire.retry_after import seconds_of


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("99999999999999999999", 9999999999.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("-3", 0.0),
        ("1.5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("\u0663", 0.0),
    ],
)
def test_seconds_and_dates(words: str, seconds: float) -> None:
    assert seconds_of(words, 40.0) == seconds
