"""llhttp for requests: the parser of record on the server side."""

from __future__ import annotations

from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from budgateway.wire.framing_cy import Framing


def request_parser(framing: Any) -> HttpRequestParser:
    """Return an llhttp parser that reports to `framing`."""
    return HttpRequestParser(framing)


class RequestFraming(Framing):
    """A connection's parser and its state. Notes the end of the head too, because the body may not be complete yet."""

    def __init__(self) -> None:
        self.complete = False
        self.head_done = False
        self._feed: Any = HttpRequestParser(self).feed_data

    def read(self, piece: Any, chunked: bool, length: int) -> str | None:
        """Feed a piece of a request; return what is wrong with it, or None.

        `chunked` and `length` are its framing according to the native scan. They are needed when an upgrade is ignored
        (RFC 9110 7.8; java.net.http requests h2c with every POST), because llhttp stops after the head of such a
        request.
        """
        try:
            self._feed(piece)
        except HttpParserError as error:
            return str(error).lower()
        except HttpParserUpgrade as stop:
            # A new parser reads the body, after a head that holds the framing only.
            self._feed = HttpRequestParser(self).feed_data
            rest = piece[stop.args[0] :]
            if chunked:
                framing = b"transfer-encoding: chunked"
            elif length > 0:
                framing = b"content-length: %d" % length
            else:
                return None
            self.complete = False
            self._feed(b"POST / HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n\r\n")
            if len(rest):
                return self.read(rest, False, 0)
        return None

    def close(self) -> None:
        """Break the reference cycle with the parser."""
        self._feed = None

    def on_headers_complete(self) -> None:
        """Note that the head is complete."""
        self.head_done = True
