"""The attempt sender: sends planned requests upstream, with retries and hedging."""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from budgateway.balance.attempts_cy import CONNECT, FAILURE, PRESSURE
from budgateway.errors import OutOfResources, Overloaded
from budgateway.exchange.exchange_cy import Exchange
from budgateway.native import VERDICT_FAILURE, VERDICT_NEUTRAL
from budgateway.wire.chunked_cy import chunk
from budgateway.wire.request_timeout import timeout_ns

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from budgateway.balance.attempts_cy import Attempts
    from budgateway.balance.balancer_cy import Balancer
    from budgateway.balance.hedge_cy import Hedging
    from budgateway.errors import GatewayError
    from budgateway.exchange.handler_cy import ExchangeHandler
    from budgateway.native import HeadEdits, Tracer
    from budgateway.transport.client_cy import ClientConnection
    from budgateway.transport.sockets import PlainSockets

_KEEP_ALIVE = 1

JOINED_BYTES = 8 * 1024  # a head and a body below it leave in one buffer: the copy is cheaper than a second iovec

_TIMED = 2048

# The reason of an attempt that another one beat, behind those of attempts_cy.
_HEDGE_LOST = 8


class AttemptSender:
    """Sends the attempts of exchanges, each on a warm connection or a new one.

    What comes of an attempt reaches the handler: from its connection as the events of a response, from here as `fail`
    when no upstream could be reached, and as `crashed`. The handler then calls `another` for one more attempt, or `won`
    when the response is one to pass on.
    """

    def __init__(
        self,
        handler: ExchangeHandler,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        later: Callable[..., asyncio.TimerHandle],
    ) -> None:
        # process
        self._handler = handler
        self._spawn = spawn
        self._later = later
        # serves plain TCP connections to upstreams; None: the loop does
        self.plain: PlainSockets | None = None
        # configuration
        self.tracer: Tracer | None = None
        self.share = 1 << 30  # exchanges that one upstream without a bound may have in flight

    def spread(self, x: Exchange) -> None:
        """Move the exchange to another upstream if the chosen one has no bound of its own and more than `share` in
        flight: half of what the gateway takes, or nothing would be left for the others. A client refused for that loses
        its connection, too."""
        destination = x.destination
        balancer: Balancer = destination.balancer
        try:
            balancer.spread(x, self.share, x.ready_ns)
        except Overloaded:
            x.flags &= ~_KEEP_ALIVE
            raise

    def send(self, x: Exchange) -> None:
        """Send the planned request: on a warm connection, else on one that is dialled now."""
        route = x.route
        x.attempts += 1
        x.destination_attempts += 1
        if x.attempts == 1:
            if x.flags & _TIMED:
                wait_ns = timeout_ns(x.head.header("x-request-timeout") or "")
                x.until_ns = x.started_ns + wait_ns if wait_ns else 0
            attempts: Attempts = route.attempts
            if attempts.hedging is not None:
                self._arm(x, attempts.hedging)
        target = x.target
        traced = x.trace
        # A streamed body can be sent only once: not on a connection that may turn out to be closed.
        connection: ClientConnection | None = None
        if x.body_done and not x.force_dial and x.handshake is None:
            connection = target.pool.checkout(x.ready_ns if x.attempts == 1 else monotonic_ns())
        if connection is None:
            x.reused = False
            if traced is not None:
                x.span = traced.begin(target.label, monotonic_ns(), False)
            # Connecting is the upstream's time, not ours.
            x.overhead_ns += monotonic_ns() - x.ready_ns
            x.task = self._spawn(target.dialler.dial(target, x, self, self._handler, self.plain))
        else:
            x.reused = True
            if traced is not None:
                x.span = traced.begin(target.label, x.ready_ns, True)
            self._send(x, connection)

    def connected(self, x: Exchange, connection: ClientConnection) -> None:
        """Send the request on the connection that was dialled."""
        try:
            self._connected(x, connection)
        except Exception as error:  # noqa: BLE001 - a task's edge: a defect must not leave the exchange in flight
            self._handler.crashed(x, error)

    def _connected(self, x: Exchange, connection: ClientConnection) -> None:
        x = self._dialled(x)
        if x.closed:
            connection.abort()
        else:
            x.ready_ns = monotonic_ns()
            self._send(x, connection)

    def unreachable(self, x: Exchange, error: GatewayError) -> None:
        """Handle a failed dial: nothing was sent, so any method may go to the next upstream."""
        try:
            self._unreachable(x, error)
        except Exception as defect:  # noqa: BLE001 - a task's edge
            self._handler.crashed(x, defect)

    def _unreachable(self, x: Exchange, error: GatewayError) -> None:
        x = self._dialled(x)
        if not x.closed:
            x.ready_ns = monotonic_ns()
            # A shortage in the gateway says nothing about the upstream.
            verdict = VERDICT_FAILURE if error.who == "upstream" else VERDICT_NEUTRAL
            if not self.another(x, verdict, CONNECT, -1, x.ready_ns):
                if isinstance(error, OutOfResources):
                    # The client's connection uses one of the descriptors that are missing.
                    x.flags &= ~_KEEP_ALIVE
                self._handler.fail(x, error)

    def _dialled(self, x: Exchange) -> Exchange:
        """Return the exchange that a finished dial serves: that of the attempt, or its primary if that has taken the
        attempt over meanwhile, because its own failed."""
        x.task = None
        if x.primary is None or x.other is not None or x.closed:
            return x
        primary: Exchange = x.primary
        primary.task = None
        return primary

    def _send(self, x: Exchange, connection: ClientConnection) -> None:
        x.connection = connection
        body = x.send_body
        done = x.body_done
        if done:
            length = -1 if body is None else len(body)
        else:
            length = x.head.content_length
            if length < 0:
                length = -2
                if body is not None:
                    body = chunk(body)
        target = x.target
        route = x.route
        edits: HeadEdits | None = x.head_edits
        if x.trace is not None and x.trace.is_sampled:
            edits = x.trace.edits(x.span, edits) or edits
        x.request_sent = True
        if done and body is not None and length < JOINED_BYTES and x.handshake is None and x.principal_lines is None:
            connection.send(x, target.write_whole(x.head, x.request_id, body, edits), None, x.is_head, True)
        else:
            head = target.write_head(x.head, x.request_id, length, edits)
            if x.handshake is not None:
                head = x.handshake.request(head, x.head)
            if x.principal_lines is not None:
                # For the admin server only: the lines go before the blank one.
                head = head[: len(head) - 2] + x.principal_lines + b"\r\n"
            connection.send(x, head, body, x.is_head, done)
        now_ns = monotonic_ns()
        if x.trace is not None:
            x.trace.sent(x.span, now_ns)
        x.overhead_ns += now_ns - x.ready_ns
        if done:
            if not x.answer_ns:
                x.answer_ns = now_ns + route.first_byte_ns
                if 0 < x.until_ns < x.answer_ns:
                    x.answer_ns = x.until_ns
            attempts: Attempts = route.attempts
            x.deadline_ns = attempts.deadline(x, now_ns)
        else:
            x.streamed = True
            x.body = None
            x.send_body = None
            self._handler.upstream_writable(x, connection.writable)

    def another(self, x: Exchange, verdict: int, reason: int, wait_ns: int, now_ns: int) -> bool:
        """Try the exchange again, elsewhere; return False when it cannot be. Its client has received nothing yet."""
        target = x.target
        if x.other is not None:
            self.note_failure(x, target, reason, now_ns)
            self._fall_out(x, verdict, now_ns)
            return True
        attempts: Attempts = x.route.attempts
        delay_ns = attempts.next(x, verdict, reason, wait_ns, now_ns)
        if delay_ns < 0:
            return False
        self.note_failure(x, target, reason, now_ns)
        self.retry(x, delay_ns, now_ns)
        return True

    def note_failure(self, x: Exchange, target: Any, reason: int, now_ns: int) -> None:
        """Note in the trace that the attempt at `target` is given up. An exchange that is not sampled gets a trace for it:
        it may be kept for its end."""
        if self.tracer is None or target is None:
            return
        if x.trace is None:
            x.trace = self.tracer.late()
        if x.span < 0:
            x.span = x.trace.begin(target.label, x.ready_ns, x.reused)
        x.trace.failed(x.span, now_ns, x.status if reason in (PRESSURE, FAILURE) else 0, reason)
        x.span = -1

    def retry(self, x: Exchange, delay_ns: int, now_ns: int) -> None:
        """Drop the attempt that failed, and make the next one."""
        x.began_ns = 0
        if x.timer is not None:
            x.timer.cancel()
            x.timer = None
        connection = x.connection
        if connection is not None:
            x.connection = None
            connection.abort()
        x.held = None
        x.waiting = None
        x.waiting_bytes = 0
        x.hold = 0
        x.has_terminator = False
        x.pump = None
        x.answer_lines = None
        x.document = None
        x.chunked = False
        x.to_close = False
        x.sse = False
        x.progressed = False
        x.deadline_ns = 0
        x.ready_ns = now_ns
        try:
            self.spread(x)
        except Overloaded as error:
            self._handler.fail(x, error)
            return
        if delay_ns:
            x.timer = self._later(delay_ns / 1e9, self._resume, x)
        else:
            self.send(x)

    def _resume(self, x: Exchange) -> None:
        x.timer = None
        if not x.closed:
            x.ready_ns = monotonic_ns()
            try:
                self.send(x)
            except Exception as error:  # noqa: BLE001 - a timer's edge
                self._handler.crashed(x, error)

    # ---------------------------------------------------------------- two attempts at a time

    def _arm(self, x: Exchange, hedging: Hedging) -> None:
        """Set the timer for a second attempt at another upstream, for when the first one is late."""
        if not x.body_done or x.handshake is not None or not x.route.may_replay(x):
            return
        x.began_ns = x.ready_ns
        delay_ns = hedging.delay_ns(x)
        if delay_ns >= 0:
            x.timer = self._later(delay_ns / 1e9, self._hedge, x)

    def _hedge(self, x: Exchange) -> None:
        """Send a second attempt, because the first one is late. A document has begun with its head, a stream with its
        first event."""
        x.timer = None
        if x.closed or x.head_sent or (x.held is not None and not x.sse):
            return
        attempts: Attempts = x.route.attempts
        try:
            h = attempts.hedge(x, monotonic_ns())
            if h is not None:
                x.other = h
                self.send(h)
        except Exception as error:  # noqa: BLE001 - a timer's edge
            self._handler.crashed(x, error)

    def won(self, x: Exchange) -> Exchange:
        """Keep the attempt whose response begins, record how long that took, and cancel the other attempt, if there is
        one. Returns the exchange to continue with: a twin's response is its primary's from here on."""
        now_ns = monotonic_ns()
        primary: Exchange = x if x.primary is None else x.primary
        attempts: Attempts = x.route.attempts
        attempts.hedging.heard(x, now_ns - x.began_ns)
        primary.began_ns = 0
        loser: Exchange | None = x.other
        if loser is not None:
            self._part(primary, loser)
            self._call_off(loser, VERDICT_NEUTRAL, now_ns)
            if primary is not x:
                primary.become(x)
        return primary

    def cancel_other(self, x: Exchange, now_ns: int) -> None:
        """Cancel the second attempt of an exchange that ends, if there is one."""
        twin: Exchange | None = x.other
        if twin is not None:
            self._part(x, twin)
            self._call_off(twin, VERDICT_NEUTRAL, now_ns)

    def _fall_out(self, x: Exchange, verdict: int, now_ns: int) -> None:
        """Drop one of two attempts, because it failed: the exchange continues with the other one."""
        other: Exchange = x.other
        primary: Exchange = x if x.primary is None else x.primary
        primary.began_ns = 0
        self._part(primary, x)
        self._call_off(x, verdict, now_ns)
        if primary is x:
            primary.become(other)
        else:
            primary.tried = x.tried

    def _part(self, primary: Exchange, loser: Exchange) -> None:
        twin: Exchange = primary.other
        primary.other = None
        twin.other = None
        primary.request_sent = primary.request_sent or twin.request_sent
        if loser is twin:
            twin.closed = True
        else:
            primary.tried = twin.tried

    def _call_off(self, x: Exchange, verdict: int, now_ns: int) -> None:
        """Give back an attempt's slot, connection and task."""
        if x.span >= 0 and x.trace is not None:
            x.trace.failed(x.span, now_ns, 0, _HEDGE_LOST)
        if x.index >= 0:
            balancer: Balancer = x.destination.balancer
            if x.index < 64:
                bit = 1
                bit <<= x.index  # in C, `1 << n` would be an int
                x.tried |= bit
            balancer.release(x, verdict, now_ns)
        connection = x.connection
        if connection is not None:
            x.connection = None
            connection.abort()
        if x.task is not None:
            x.task.cancel()
            x.task = None
