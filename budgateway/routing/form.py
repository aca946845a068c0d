"""Multipart forms (RFC 7578): which model a form asks for, and that it asks for one alone.

The field is looked for in front of the files, as far as a form is held back. What comes later passes, but a further field of that
name there would be another model to the upstream than it was to us: it is looked for to the end.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from budgateway.errors import BadRequest

MAX_LINE_BYTES = 8 * 1024  # of a part's head; as of a request's

_LINE = re.compile(rb"[\r\n]content-disposition[ \t]*:((?:[^\r\n]|\r?\n[ \t])*)")
_NAME = re.compile(rb';[ \t\r\n]*name(\*?)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;"\s]+(?=[;\s]))')
# As every client writes it; file parts carry a filename and are none.
_PLAIN = re.compile(
    rb'[\r\n]content-disposition:[ \t]*form-data;[ \t]*name="model"[ \t]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,256})\r\n',
    re.IGNORECASE,
)
_KEPT = len(b"\r\ncontent-disposition") + 1


def model_of(body: bytes) -> str | None:
    """The model that a form, or the beginning of one, asks for. BadRequest when that can be read in two ways."""
    count = _count(b"\n" + body.lower())[0]
    if count > 1:
        # As of JSON members: the upstream might believe the other one.
        raise BadRequest("the form has the field 'model' twice", param="model")
    if not count:
        return None
    found = _PLAIN.search(body)
    if found is None:
        raise BadRequest("the form's field 'model' cannot be read", param="model")
    return found[1].decode("utf-8", "replace")


def rest_of(body: bytes) -> bytes:
    """What of a form's beginning is to be seen again with the next piece."""
    return _count(body.lower())[1]


def look_on(kept: bytes, piece: bytes) -> bytes:
    """Look at the next piece of a form that passes: what is to be seen again with the one behind it. BadRequest when it has
    the field 'model'."""
    count, kept = _count(kept + piece.lower())
    if count:
        raise BadRequest("the form has the field 'model' behind its first 64 KiB, or twice", param="model")
    if len(kept) > MAX_LINE_BYTES:
        raise BadRequest("a line of the form is too long")
    return kept


def _count(text: bytes) -> tuple[int, bytes]:
    """How many parts of this (lower-case) text are named model, and its end, if that may be the beginning of another."""
    if b"content-disposition" not in text:
        return 0, text[-_KEPT:]
    count, names, last = 0, False, None
    for last in _LINE.finditer(text):
        # A token ends where its line does.
        line = last[1] + text[last.end() : last.end() + 1]
        names = any(_said(name) == b"model" for name in _NAME.finditer(line))
        count += names
    if last is not None and last.end() + 2 >= len(text) and not names:
        return count, text[last.start() :]
    return count, text[-_KEPT:]


def _said(name: re.Match[bytes]) -> bytes:
    """A name without its quotes, escapes and character set."""
    value = re.sub(rb"\\(.)", rb"\1", name[2].strip(b'"'))
    return unquote_to_bytes(value).rpartition(b"'")[2] if name[1] else value
