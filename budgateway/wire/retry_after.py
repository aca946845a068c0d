"""The header `retry-after`: seconds, or a date (RFC 9110 10.2.3)."""

from __future__ import annotations

from email.utils import parsedate_to_datetime


def seconds_of(words: str, now_s: float) -> float:
    """Return the seconds to wait, counted from the wall-clock time `now_s`; 0 for anything unreadable."""
    words = words.strip()
    if words.isascii() and words.isdigit():
        return float(words[:10])
    try:
        return max(0.0, parsedate_to_datetime(words).timestamp() - now_s)
    except (ValueError, OverflowError):
        return 0.0
