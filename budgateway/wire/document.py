"""JSON that others wrote: hostile input, read or refused."""

from __future__ import annotations

import json


def read_json(text: bytes | str) -> object:
    """A document's value. ValueError for whatever cannot be read: nested too deeply, numbers of ten thousand digits, no
    Unicode, no JSON."""
    try:
        value: object = json.loads(text)
    except (RecursionError, MemoryError) as error:
        raise ValueError("nested too deeply, or too large") from error
    return value


def printable(text: str, most: int) -> str:
    """At most so many characters of a text; halves of surrogate pairs, which JSON can spell and nothing else, replaced."""
    return text[:most].encode("utf-8", "replace").decode()
