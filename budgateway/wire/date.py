"""The `date` header line of a response."""

from __future__ import annotations

from functools import lru_cache
from time import gmtime, time

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date_line() -> str:
    """Return `date: ...` for now, without a line end (RFC 9110 6.6.1: a server with a clock sends it)."""
    return date_line_of(int(time()))


@lru_cache(maxsize=2)  # once a second
def date_line_of(second: int) -> str:
    """Return the date line for seconds since the epoch. Not `strftime`, which uses the machine's locale."""
    at = gmtime(second)
    return (
        f"date: {_DAYS[at.tm_wday]}, {at.tm_mday:02} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04} "
        f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"
    )
