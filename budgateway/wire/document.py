"""Parsing of untrusted JSON."""

from __future__ import annotations

import json


def read_json(text: bytes | str) -> object:
    """Return a document's value. ValueError for anything unreadable: nested too deeply, numbers of ten thousand digits,
    invalid Unicode, not JSON."""
    try:
        value: object = json.loads(text)
    except (RecursionError, MemoryError) as error:
        raise ValueError("nested too deeply, or too large") from error
    return value


def printable(text: str, most: int) -> str:
    """Return at most `most` characters of a text, with lone surrogates, which only JSON can spell, replaced."""
    return text[:most].encode("utf-8", "replace").decode()
