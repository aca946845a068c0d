"""The handler contract: the events that client and upstream connections report about an exchange, one method each.

```
request    start [body ... body_end]
response   response                                                      all of it came in one read
           response_head [response_data ...] response_flush [response_data ...] response_end
           response_head ... lost                                        broken off
upgrade    switched ... socket_ended
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgateway.errors import GatewayError
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.native import BodyPump, ResponseHead


class ExchangeHandler:
    """The handler that both ends of an exchange report to: client connections above the line, upstream connections
    below.

    A typed base, so that the compiled protocols call it without Python's machinery. A handler of one end only (the
    admin server, a fetch) overrides that half; the other half is never called.
    """

    # ---------------------------------------------------------------- client connections

    def start(self, x: Exchange) -> None:
        """Start an exchange whose request is complete, or begins to stream."""
        raise NotImplementedError

    def body(self, x: Exchange, data: bytes) -> None:
        """Handle a piece of a streamed request body."""
        raise NotImplementedError

    def body_end(self, x: Exchange) -> None:
        """Handle the end of a streamed request body."""
        raise NotImplementedError

    def gone(self, x: Exchange) -> None:
        """End an exchange whose client left; nothing can be written any more."""
        raise NotImplementedError

    def writable(self, x: Exchange, ok: bool) -> None:
        """Handle a client that reads too slowly, or caught up (`ok`)."""
        raise NotImplementedError

    def sweep(self, x: Exchange, now_ns: int) -> None:
        """Check the exchange's deadlines; called four times a second."""
        raise NotImplementedError

    def fail(self, x: Exchange, error: GatewayError) -> None:
        """End an exchange with an error, for example one in its request, found while that was read."""
        raise NotImplementedError

    def refuse_malformed(self, connection: Any, error: GatewayError, data: bytes, dialect: int) -> None:
        """Answer a request that never became an exchange: the bytes received, `data`, hold no valid head. `dialect` is
        the one of its first line."""
        raise NotImplementedError

    # ---------------------------------------------------------------- upstream connections

    def response(self, x: Exchange, head: ResponseHead, now_ns: int) -> None:
        """Handle a response that came complete in one read; its body is the head's. The connection is free again."""
        raise NotImplementedError

    def response_head(self, x: Exchange, head: ResponseHead, now_ns: int) -> BodyPump | None:
        """Handle the head of a response whose body follows. Returns the pump for that body; its output is reported by
        the next three methods. Returns None if the attempt or the exchange has ended, and its connection with it."""
        raise NotImplementedError

    def response_data(self, x: Exchange, out: bytes) -> None:
        """Handle a piece of the pump's output."""
        raise NotImplementedError

    def response_flush(self, x: Exchange) -> None:
        """Handle the end of the read that brought the head. A head that was held back to leave in one write with what
        came in the same read leaves now."""
        raise NotImplementedError

    def response_end(self, x: Exchange, out: bytes | None, now_ns: int) -> None:
        """Handle the end of the body; `out` is the pump's last output. The connection is free again."""
        raise NotImplementedError

    def lost(self, x: Exchange, error: GatewayError) -> None:
        """Handle an upstream connection that ended before its response."""
        raise NotImplementedError

    def upstream_writable(self, x: Exchange, ok: bool) -> None:
        """Handle an upstream that takes a streamed body too slowly, or caught up (`ok`)."""
        raise NotImplementedError

    def switched(self, x: Exchange, connection: Any, head: ResponseHead, rest: bytes) -> None:
        """Handle a 101 from the upstream, and take over the connection's transport (`surrender`). `rest` came behind
        the head."""
        raise NotImplementedError

    def socket_ended(self, x: Exchange, outcome: int, verdict: int, now_ns: int) -> None:
        """Handle the end of an upgraded exchange's connections."""
        raise NotImplementedError

    # ---------------------------------------------------------------- both

    def crashed(self, x: Exchange, error: Exception) -> None:
        """End the exchange, unless it has ended, after a defect of ours while bytes of either end were handled."""
        raise error
