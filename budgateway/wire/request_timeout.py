"""The header `x-request-timeout`: how long a client is willing to wait."""

from __future__ import annotations

import re

_WORDS = re.compile(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|)\s*")


def timeout_ns(words: str) -> int:
    """Parse seconds, or a number with its unit (`ms`, `s`), into nanoseconds; 0 for anything else."""
    found = _WORDS.fullmatch(words)
    return 0 if found is None else int(float(found[1]) * (1e6 if found[2] == "ms" else 1e9))
