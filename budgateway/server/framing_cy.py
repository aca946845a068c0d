"""llhttp, reading requests: the parser of record on the front door."""

from __future__ import annotations

from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from budgateway.wire.framing_cy import Framing


def request_parser(framing: Any) -> HttpRequestParser:
    """llhttp, reporting to `framing`."""
    return HttpRequestParser(framing)


class RequestFraming(Framing):
    """A connection's parser, and what it said: of where the head ends, too, as the body may not be whole yet."""

    def __init__(self) -> None:
        self.complete = False
        self.head_done = False
        self._feed: Any = HttpRequestParser(self).feed_data

    def read(self, piece: Any, chunked: bool, length: int) -> str | None:
        """Feed a piece of a request; what is wrong with it, if anything is. Its framing, as the native scan has it, is for
        one whose upgrade is ignored (RFC 9110 7.8; java.net.http asks for h2c with every POST): llhttp stops behind its
        head."""
        try:
            self._feed(piece)
        except HttpParserError as error:
            return str(error).lower()
        except HttpParserUpgrade as stop:
            # The body is for a parser that was told of the framing alone.
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
        """Break the cycle with the parser."""
        self._feed = None

    def on_headers_complete(self) -> None:
        """The head was read."""
        self.head_done = True
