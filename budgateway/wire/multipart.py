"""Multipart forms (RFC 7578), parsed as they arrive to find the field `model`.

Parsers disagree about forms that no client writes: text before the first boundary, lines that end in a bare LF,
repeated or RFC 2231 parameters, escaped quotes, nested parts. Such a form is refused, not interpreted: an upstream
might find another model in it than the gateway did. Files are not kept, only the head of a part and the value of
`model`.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from budgateway.errors import BadRequest

MAX_HEAD_BYTES = 8 * 1024  # of a part; the same limit as for a line of a request's head
MAX_MODEL_BYTES = 256

# RFC 2046 5.1.1 without the characters that parsers disagree about: blanks, parentheses (RFC 822 comments), commas.
_BOUNDARY = re.compile(r"[A-Za-z0-9'+_./:=?-]{1,70}")
_TYPE_PARAMETER = re.compile(
    r""";[ \t]*([A-Za-z][A-Za-z0-9-]*)=(?:"([^"\\\x00-\x1f\x7f]*)"|([^";\\\x00-\x20\x7f]+))[ \t]*"""
)
_HEADER = re.compile(rb"([A-Za-z][A-Za-z0-9-]*):[ \t]*((?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?)[ \t]*")
_PARAMETER = re.compile(
    rb"""[ \t]*;[ \t]*([A-Za-z]+\*?)=("(?:[^"\\\x00-\x1f\x7f]|\\[^"\x00-\x1f\x7f])*"|[A-Za-z0-9!#$%&'*+.^_`{|}~-]+)"""
)
# A parser that splits at semicolons before it handles quotes would find a name in there.
_NAME_INSIDE = re.compile(rb";[ \t]*name", re.IGNORECASE)
_PLAIN_TYPE = re.compile(
    rb'text/plain(?:[ \t]*;[ \t]*charset=(?:"(?:utf-?8|us-ascii)"|utf-?8|us-ascii))?', re.IGNORECASE
)
_UTF8 = ("utf-8", "utf8", "us-ascii")

# Parser states: before the first boundary, in a part's head, in its content, after the last boundary.
_START, _HEAD, _CONTENT, _END = range(4)


class FormReader:
    """Parses one form. Every method raises BadRequest for a form that is malformed or ambiguous.

    `model` is the value of the field once `has_model` is true; in a form without the field it never is.
    """

    __slots__ = ("_at_start", "_declared_length", "_delimiter", "_is_model", "_rest", "_state", "has_model", "model")

    def __init__(self, content_type: str) -> None:
        """`content_type` is the request's header, with the boundary."""
        self._delimiter = b"--" + boundary_of(content_type).encode()
        self._state = _START
        self._rest = b""  # unparsed bytes, read again with the next piece
        self._at_start = True  # `_rest` begins where the part's content does
        self._is_model = False
        self._declared_length = -1  # the part's content-length; -1: none
        self.has_model = False
        self.model = ""

    def feed(self, piece: bytes) -> None:
        """Parse the next piece."""
        text = self._rest + piece if self._rest else piece
        at = 0
        while at >= 0:
            state = self._state
            if state == _CONTENT:
                at = self._content(text, at)
            elif state == _HEAD:
                at = self._head(text, at)
            elif state == _START:
                at = self._start(text)
            else:
                at = self._end(text, at)

    def finish(self) -> None:
        """Check at the end of the body that the form has ended too."""
        if self._state != _END or self._rest not in (b"", b"\r\n"):
            raise BadRequest("the form ends before its last boundary")

    # Each of these parses `text` from `at` on and returns the next position, or -1 when it needs more; then `_rest`
    # holds the bytes to begin with.

    def _start(self, text: bytes) -> int:
        line = self._delimiter + b"\r\n"
        if len(text) < len(line) and line.startswith(text):
            self._rest = text
            return -1
        if not text.startswith(line):
            # A lenient server might read this as JSON, a strict one as a preamble.
            raise BadRequest("the form does not begin with its boundary")
        self._state = _HEAD
        return len(line)

    def _head(self, text: bytes, at: int) -> int:
        end = text.find(b"\r\n\r\n", at, at + MAX_HEAD_BYTES)
        if end >= 0:
            self._part(text[at:end])
            self._state = _CONTENT
            self._at_start = True
            return end + 4
        if len(text) - at >= MAX_HEAD_BYTES:
            raise BadRequest(f"the head of a part of the form exceeds {MAX_HEAD_BYTES} bytes")
        self._rest = text[at:]
        return -1

    def _content(self, text: bytes, at: int) -> int:
        delimiter = self._delimiter
        size = len(delimiter)
        found = text.find(delimiter, at)
        while found >= 0:
            is_first = self._at_start and found == at
            if is_first or text[found - 1 : found] in (b"\r", b"\n"):
                break
            found = text.find(delimiter, found + 1)
        else:
            return self._more(text, at)
        if found < at + 2 or text[found - 2 : found] != b"\r\n":
            raise BadRequest("a boundary of the form does not follow CRLF")
        behind = text[found + size : found + size + 2]
        if behind in (b"", b"\r", b"-"):
            self._rest = text[at if self._is_model else max(at, found - 2) :]
            self._at_start = self._at_start and (self._is_model or found - 2 <= at)
            return -1
        if behind not in (b"\r\n", b"--"):
            raise BadRequest("a line of the form begins with its boundary and continues")
        if self._is_model:
            self._take(text[at : found - 2])
        self._state = _HEAD if behind == b"\r\n" else _END
        return found + size + 2

    def _more(self, text: bytes, at: int) -> int:
        """Keep the bytes that may be the beginning of a boundary; there is no whole one."""
        if self._is_model:
            if len(text) - at > MAX_MODEL_BYTES + len(self._delimiter) + 2:
                raise BadRequest(f"the form's field 'model' exceeds {MAX_MODEL_BYTES} bytes", param="model")
            self._rest = text[at:]
            return -1
        keep = max(at, len(text) - len(self._delimiter) - 1)
        self._at_start = self._at_start and keep == at
        self._rest = text[keep:]
        return -1

    def _end(self, text: bytes, at: int) -> int:
        self._rest = text[at:]
        if not b"\r\n".startswith(self._rest):
            raise BadRequest("the form continues after its last boundary")
        return -1

    def _part(self, head: bytes) -> None:
        """Parse a part's head, and set `_is_model` when it is the field `model`."""
        lines: dict[bytes, bytes] = {}
        for line in head.split(b"\r\n"):
            header = _HEADER.fullmatch(line)
            if header is None:
                raise BadRequest("a part of the form has a malformed header")
            name = header[1].lower()
            if name in lines:
                raise BadRequest(f"a part of the form has the header '{name.decode()}' twice")
            lines[name] = header[2]
        given = _parameters(lines.get(b"content-disposition", b""))
        kind = lines.get(b"content-type")
        if kind is not None and kind[:10].lower() == b"multipart/":
            raise BadRequest("a part of the form is multipart itself")
        name = _unquoted(given.get(b"name", b""))
        if not name or b"\\" in name or b"=?" in name:
            raise BadRequest("a part of the form has no name, or an ambiguous one")
        plain = unquote(name.decode("utf-8", "replace")).strip(" \t\"'").casefold().partition("[")[0]
        if plain == "_charset_":
            raise BadRequest("a field '_charset_' would change the encoding of the others")
        self._is_model = name == b"model"
        if not self._is_model:
            if plain.strip() == "model":
                raise BadRequest("the form has an ambiguous field name that could be 'model'", param="model")
            return
        if self.has_model:
            # As with repeated JSON members, the upstream might use the other one.
            raise BadRequest("the form has the field 'model' twice", param="model")
        coding = lines.get(b"content-transfer-encoding", b"8bit").lower()
        if (
            len(given) > 1
            or (kind is not None and not _PLAIN_TYPE.fullmatch(kind))
            or coding not in (b"7bit", b"8bit", b"binary")
        ):
            raise BadRequest("the form's field 'model' is not plain text in UTF-8", param="model")
        length = lines.get(b"content-length", b"-1")
        self._declared_length = int(length) if length.isdigit() and len(length) < 10 else -1

    def _take(self, value: bytes) -> None:
        """Store the value of `model`; BadRequest when it is unprintable, too long or not as long as its head says."""
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = "\0"
        if len(value) > MAX_MODEL_BYTES or self._declared_length not in (-1, len(value)) or not text.isprintable():
            raise BadRequest("the form's field 'model' cannot be read", param="model")
        self._is_model = False
        self.has_model = True
        self.model = text


def boundary_of(content_type: str) -> str:
    """Return the boundary from a `multipart/form-data` header. BadRequest when there is none, or parsers may disagree
    about it."""
    essence, semicolon, _ = content_type.partition(";")
    at = len(essence)
    given: dict[str, str] = {}
    while at < len(content_type):
        parameter = _TYPE_PARAMETER.match(content_type, at)
        if parameter is None or parameter[1].lower() in given:
            raise BadRequest("the form's content-type is malformed, or has a parameter twice")
        given[parameter[1].lower()] = parameter[3] if parameter[2] is None else parameter[2]
        at = parameter.end()
    boundary = given.get("boundary", "")
    if not semicolon or not _BOUNDARY.fullmatch(boundary):
        raise BadRequest("the form's content-type has no boundary, or an ambiguous one")
    if given.get("charset", "utf-8").lower() not in _UTF8:
        raise BadRequest("a form must be in UTF-8")
    return boundary


def _parameters(disposition: bytes) -> dict[bytes, bytes]:
    """Return the parameters of a part's Content-Disposition: names in lower case, values as written."""
    kind, semicolon, _ = disposition.partition(b";")
    at = len(kind)
    given: dict[bytes, bytes] = {}
    if kind.rstrip().lower() != b"form-data" or not semicolon:
        raise BadRequest("a part of the form is not a field: it needs 'content-disposition: form-data; name=...'")
    while at < len(disposition):
        parameter = _PARAMETER.match(disposition, at)
        name = b"" if parameter is None else parameter[1].lower()
        # `filename*` is the only RFC 5987 parameter in use; it does not name a field.
        if parameter is None or name in given or (name[-1:] == b"*" and name != b"filename*"):
            raise BadRequest("a part's content-disposition is malformed or ambiguous")
        if _NAME_INSIDE.search(parameter[2]):
            raise BadRequest("a part's content-disposition has a name inside another parameter")
        given[name] = parameter[2]
        at = parameter.end()
    return given


def _unquoted(value: bytes) -> bytes:
    return value[1:-1] if value[:1] == b'"' else value
