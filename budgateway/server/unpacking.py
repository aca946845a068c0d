"""Request bodies that the gateway reads as they arrive: forms, and bodies with a content coding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.errors import BadRequest, UnsupportedCoding
from budgateway.native import ENCODED, JSON, MULTIPART, BodyDecoder, RequestHead
from budgateway.wire.multipart import FormReader

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange

FORM_BYTES = 64 * 1024  # a smaller form is kept whole, so that it can be sent again
# Bytes held while a form's field `model` has not come, as a JSON body is held (the API limits audio to 25 MB). Beyond
# them, the form goes on as one whose model cannot be seen.
FORM_HELD_BYTES = 32 * 1024 * 1024

_OF_THE_FRAMING = frozenset(("content-encoding", "content-length", "transfer-encoding"))


class Unpacking:
    """Decodes and parses one body. Pieces go in as received, and come out as they go upstream: decoded, under a head
    that says so."""

    __slots__ = ("_decoder", "_form")

    def __init__(self, decoder: BodyDecoder | None, form: FormReader | None) -> None:
        self._decoder = decoder
        self._form = form

    @classmethod
    def of(cls, x: Exchange, limit: int) -> Unpacking | None:
        """Return what the body of an exchange needs, or None when nothing reads it. `limit` applies to the decoded
        body. BadRequest for a form without a boundary, Overloaded for too many decoders."""
        decoder = form = None
        if x.flags & ENCODED:
            if not x.flags & (JSON | MULTIPART):
                return None
            codings = [value for name, value in x.head.headers() if name == "content-encoding"]
            try:
                decoder = BodyDecoder(", ".join(codings), limit)
            except UnsupportedCoding:
                return None  # it stays encoded, and the router decides about it
            x.head = plain_head(x.head)
            x.flags &= ~ENCODED
        if x.flags & MULTIPART:
            form = x.form = FormReader(x.head.header("content-type") or "")
        return cls(decoder, form)

    def feed(self, piece: bytes) -> bytes:
        """Return the next piece, decoded. BadRequest or RequestTooLarge when it is malformed or too much."""
        if self._decoder is not None:
            piece = self._decoder.feed(piece)
        if self._form is not None:
            self._form.feed(piece)
        return piece

    def finish(self) -> None:
        """Check that the body is complete at its end; BadRequest when it is not."""
        if self._decoder is not None:
            self._decoder.finish()
        if self._form is not None:
            self._form.finish()

    def holds(self, size_bytes: int) -> bool:
        """Return whether a body that streams must wait for more: a form's model is not known yet, or it may be kept
        whole."""
        form = self._form
        return form is not None and size_bytes < (FORM_BYTES if form.has_model else FORM_HELD_BYTES)


def plain_head(head: RequestHead) -> RequestHead:
    """Return the head of a request whose body is decoded on its way: without the coding, and chunked."""
    target = f"{head.path}?{head.query}" if head.query else head.path
    lines = [f"{head.method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in head.headers() if name not in _OF_THE_FRAMING]
    lines += ["transfer-encoding: chunked", "", ""]
    plain = RequestHead.parse("\r\n".join(lines).encode("latin-1"))
    if plain is None:
        raise BadRequest("the request's head cannot be read without its content-encoding")
    return plain
