"""Taps: copies of the answer that a client gets, for stages such as a response cache."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from budgateway.exchange.exchange_cy import TRUNCATED
from budgateway.wire.chunked_cy import unchunk

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange

_log = logging.getLogger("budgateway.tap")


class Tap:
    """A copy of one exchange's answer. A stage sets it as `x.tap`, and overrides the three methods as it needs.

    It gets what the client gets, from an upstream or from the gateway itself: `head` at most once, then `data` for each
    piece of the body, and `end` exactly once. Nothing is seen of attempts that failed or lost, of the frames behind a
    101, or of the comments that keep a silent stream open. A client that leaves early may have got less than the tap.

    An exception ends the tap, as if the answer had been truncated; the client does not notice.
    """

    _begun = False
    _ended = False

    def head(self, status: int, lines: bytes) -> None:
        """Take the answer's status and its header lines, each with its CRLF, including those that are written anew for
        each answer: framing, `connection`, `date`, request id, limits."""

    def data(self, piece: bytes) -> None:
        """Take a piece of the body, without framing; never empty."""

    def end(self, outcome: int) -> None:
        """Take the exchange's outcome (`exchange_cy`): the answer is complete only if that is COMPLETE."""

    # ---------------------------------------------------------------- for the relay

    def copy(self, x: Exchange, data: bytes) -> None:
        """Take what was written to the client: a whole head with what follows it, then whole chunks, or bytes."""
        if self._ended:
            return
        try:
            if not self._begun:
                self._begun = True
                start = data.index(b"\r\n") + 2
                end = data.index(b"\r\n\r\n") + 2
                self.head(x.status, data[start:end])
                data = data[end + 2 :]
            if x.chunked:
                data = unchunk(data)
            if data:
                self.data(data)
        except Exception as error:  # noqa: BLE001 - a copy's defect must not reach the exchange that it copies
            _log.error("the answer of exchange %s could not be copied", x.request_id, exc_info=error)
            self.close(x, TRUNCATED)

    def close(self, x: Exchange, outcome: int) -> None:
        """Report the end, once."""
        if self._ended:
            return
        self._ended = True
        try:
            self.end(outcome)
        except Exception as error:  # noqa: BLE001 - the exchange has ended
            _log.error("the copy of exchange %s could not be ended", x.request_id, exc_info=error)
