"""Bodies that are more than bytes to the gateway: forms, and what has a content coding. Read as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.errors import BadRequest, UnsupportedCoding
from budgateway.native import ENCODED, JSON, MULTIPART, BodyDecoder, RequestHead
from budgateway.wire.form import FormReader

if TYPE_CHECKING:
    from budgateway.exchange_cy import Exchange

FORM_BYTES = 64 * 1024  # a form that is smaller is kept whole: it can be sent again
# A file in front of the field `model` is held so far, as a JSON body is (the API's own limit of audio is 25 MB). Behind that the
# form goes on as one whose model cannot be seen.
FORM_HELD_BYTES = 32 * 1024 * 1024

_OF_THE_FRAMING = frozenset(("content-encoding", "content-length", "transfer-encoding"))


class Unpacking:
    """One body. Pieces go in as they came, and come out as they go upstream: decoded, under a head that says so."""

    __slots__ = ("_decoder", "_form")

    def __init__(self, decoder: BodyDecoder | None, form: FormReader | None) -> None:
        self._decoder = decoder
        self._form = form

    @classmethod
    def of(cls, x: Exchange, limit: int) -> Unpacking | None:
        """What the body of an exchange needs; None when nothing looks into it. `limit` is of the decoded body. BadRequest for a
        form without a boundary, Overloaded for too many decoders."""
        decoder = form = None
        if x.flags & ENCODED:
            if not x.flags & (JSON | MULTIPART):
                return None
            codings = [value for name, value in x.head.headers() if name == "content-encoding"]
            try:
                decoder = BodyDecoder(", ".join(codings), limit)
            except UnsupportedCoding:
                return None  # it stays unread: the router has the last word
            x.head = plain_head(x.head)
            x.flags &= ~ENCODED
        if x.flags & MULTIPART:
            form = x.form = FormReader(x.head.header("content-type") or "")
        return cls(decoder, form)

    def feed(self, piece: bytes) -> bytes:
        """The next piece. BadRequest or RequestTooLarge when it is not what it should be."""
        if self._decoder is not None:
            piece = self._decoder.feed(piece)
        if self._form is not None:
            self._form.feed(piece)
        return piece

    def finish(self) -> None:
        """The body has ended. BadRequest when it is not whole."""
        if self._decoder is not None:
            self._decoder.finish()
        if self._form is not None:
            self._form.finish()

    def holds(self, size_bytes: int) -> bool:
        """Whether a body that streams must wait for more than this: the model of a form is not known yet."""
        form = self._form
        return form is not None and size_bytes < (FORM_BYTES if form.has_model else FORM_HELD_BYTES)


def plain_head(head: RequestHead) -> RequestHead:
    """The head of a request whose body is decoded on its way: without the coding, and with a body as long as it is."""
    target = f"{head.path}?{head.query}" if head.query else head.path
    lines = [f"{head.method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in head.headers() if name not in _OF_THE_FRAMING]
    lines += ["transfer-encoding: chunked", "", ""]
    plain = RequestHead.parse("\r\n".join(lines).encode("latin-1"))
    if plain is None:
        raise BadRequest("the request's head cannot be read without its content-encoding")
    return plain
