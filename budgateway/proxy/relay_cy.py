"""The relay: executes plans. Moves bytes both ways, enforces deadlines and back-pressure, ends every exchange once.

Both the client connections and the upstream connections report to it; between them is one `Exchange`.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from time import monotonic_ns, time
from typing import TYPE_CHECKING, Any

from budgateway.balance.attempts_cy import BROKEN, FAILURE, FALLBACK, PRESSURE, STALE, TIMEOUT
from budgateway.errors import DeadlineExceeded, GatewayError, InternalError, Overloaded, UpstreamTimeout
from budgateway.exchange.exchange_cy import CLIENT_GONE, COMPLETE, REFUSED, TRUNCATED, UPSTREAM_FAILED, Exchange
from budgateway.exchange.handler_cy import ExchangeHandler
from budgateway.exchange.response_check_cy import (
    frame,
    has_spoken,
    hold,
    judge,
    judge_document,
    judge_end,
    scan_of,
    verdict_of,
    verdict_of_delay,
)
from budgateway.exchange.timing import timing_lines
from budgateway.native import (
    VERDICT_FAILURE,
    VERDICT_NEUTRAL,
    RequestIds,
    ResponseHead,
    ResponseHeadWriter,
)
from budgateway.proxy.attempt_cy import AttemptSender
from budgateway.proxy.explain import explain
from budgateway.proxy.pipeline_cy import plan
from budgateway.proxy.suspended import go_on
from budgateway.server.websocket import SocketCounts, Tunnel
from budgateway.wire.chunked_cy import chunk
from budgateway.wire.date import date_line
from budgateway.wire.error_response import body_bytes, response_bytes
from budgateway.wire.retry_after import seconds_of
from budgateway.wire.websocket import SWITCH_LINES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator

    from budgateway.balance.attempts_cy import Attempts
    from budgateway.balance.balancer_cy import Balancer
    from budgateway.exchange.reply import Reply
    from budgateway.limits.stage_cy import Limits
    from budgateway.native import Tracer
    from budgateway.observe.record_cy import Recorder
    from budgateway.providers.passthrough_cy import Passthrough
    from budgateway.proxy.pipeline_cy import Snapshot
    from budgateway.server.connection_cy import ServerConnection
    from budgateway.transport.client_cy import ClientConnection

# Silence after which an upstream is probed. A busy engine is probed now and then in vain; a stopped one is taken out
# within 3 s (R16).
SUSPECT_NS = 750_000_000
# Time for a client to read on, once its stream has stalled for chunk_timeout (nginx: send_timeout).
SEND_NS = 60_000_000_000
# Operators must get through to an overloaded gateway.
_NEVER_SHED = ("/livez", "/metrics", "/admin/")

_KEEP_ALIVE = 1
_NO_BODY = 512
_NAMED = 1024
_DOUBTFUL = 4096
_ASKING = 8192
_LOCATED = 32768

# The pump's SCAN_*.
_SCAN_DOCUMENT = 1
_SCAN_EVENTS = 2

# The results of response_check_cy.
_PASS = 0
_WAIT = 1
_CONTEXT = 3

# Headers that describe a body, or the API behind it: they are not true of a translated one.
DESCRIBING = [
    "content-type", "cache-control", "etag", "content-md5", "digest", "content-digest", "repr-digest", "openai-version",
    "openai-processing-ms", "anthropic-organization-id",
]  # fmt: skip

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_LAST_CHUNK = b"0\r\n\r\n"
_COMMENT = b": keep-alive\n\n"

# Points in time of a trace, besides the number of the stage that waits: `observe.trace_record` reads them.
_READY = 0
_WAITED = 10
_FELL_BACK = 11

_log = logging.getLogger("budgateway.relay")


class Relay(ExchangeHandler):
    """The relay of one worker. `snapshot` is replaced by one assignment; an exchange keeps the one it started under."""

    def __init__(
        self,
        recorder: Recorder,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        later: Callable[..., asyncio.TimerHandle],
        *,
        id_prefix: str,
    ) -> None:
        # process
        self._spawn = spawn
        self.sender = AttemptSender(self, spawn, later)
        self._recorder = recorder
        self.ids = RequestIds(id_prefix)
        self._next_id = self.ids.take
        writer = ResponseHeadWriter()
        self._write_head = writer.write
        self._write_whole = writer.write_whole
        self._write_translated = ResponseHeadWriter(DESCRIBING).write
        self._write_switch = ResponseHeadWriter(SWITCH_LINES).write
        self.sockets = SocketCounts()
        self.fastpath: Any = None
        self.fast_in_flight: Callable[[], int] = int  # the number of exchanges that the fast path has in flight
        # configuration
        self.snapshot: Snapshot | None = None
        self._tracer: Tracer | None = None
        self._times = False
        self._explains = False
        # reason to refuse new exchanges; empty: take them
        self.shedding = ""
        self.spread_above = 1 << 30  # exchanges in flight here, above which one upstream is held to its `share`
        # now
        self.in_flight = 0

    def follow_tracer(self, tracer: Tracer | None, times: bool, explains: bool) -> None:
        """Trace exchanges that begin from now on with this tracer, or none; with `times`, tell clients their timelines;
        with `explains`, log what was decided about each."""
        self._tracer = tracer
        self._times = times
        self._explains = explains
        self.sender.tracer = tracer

    # ---------------------------------------------------------------- downstream events

    def start(self, x: Exchange) -> None:
        """Plan an exchange whose request is complete (or streams), and execute the plan."""
        self._enter(x)
        x.snapshot = self.snapshot
        self._plan(x)

    def _plan(self, x: Exchange) -> None:
        """Plan an exchange, or the rest of its plan, and execute it: at once, unless a stage must wait."""
        try:
            if x.flags & _ASKING:
                self._answer_options(x)
                return
            if x.resume_at == 0 and self.shedding and not x.head.path.startswith(_NEVER_SHED):
                raise Overloaded(f"the gateway accepts no requests at the moment: {self.shedding}", retry_after_s=1.0)
            waiting = plan(x)
            if waiting is None:
                if x.reply is not None:
                    self._reply(x, x.reply)
                    return
                route = x.route
                if self.in_flight + self.fast_in_flight() > self.spread_above:
                    self.sender.spread(x)
                if route.mirror is not None:
                    route.mirror.copy(x, self._spawn)
                self.sender.send(x)
            else:
                # The wait is the time of Redis, a key set or a queue, not ours.
                now_ns = monotonic_ns()
                x.overhead_ns += now_ns - x.ready_ns
                if x.trace is not None:
                    x.trace.note(x.resume_at, now_ns)
                x.task = self._spawn(go_on(self, x, waiting))
        except GatewayError as error:
            self._refuse(x, error)
        except Exception as error:  # noqa: BLE001 - the pipeline's edge: this exchange's alone
            self.crashed(x, error)

    def _answer_options(self, x: Exchange) -> None:
        """Answer an OPTIONS request for the server itself, or a preflight, without authentication. Only its own limit
        counts it."""
        snapshot: Snapshot = x.snapshot
        limits: Limits = snapshot.limits
        limits.preflight(x)
        x.status = 204
        x.keep_alive = x.body_done and (x.flags & _KEEP_ALIVE) != 0
        self._tell(x, snapshot.origins.options(x.head, x.request_id, not x.keep_alive), COMPLETE, VERDICT_NEUTRAL)

    def _refuse(self, x: Exchange, error: GatewayError) -> None:
        """Handle a stage's refusal. If the choice of an upstream failed, a fallback of the route may have one; every
        other refusal is final."""
        if x.resume_at == 4 and not x.attempts:
            attempts: Attempts = x.route.attempts
            if attempts.falls_on(error) and attempts.fall_back(x, VERDICT_NEUTRAL, BROKEN, monotonic_ns()):
                if x.trace is not None:
                    x.trace.note(_FELL_BACK, monotonic_ns())
                self.sender.retry(x, 0, monotonic_ns())
                return
        self.give_up(x, error)

    def _reply(self, x: Exchange, reply: Reply) -> None:
        """Send a reply of our own. The exchange ends like every other one."""
        now_ns = monotonic_ns()
        x.first_byte_ns = now_ns
        x.status = reply.status
        # Scanned like an upstream's, so that one writer decides what a client may see.
        start = b"HTTP/1.1 %d %b\r\n" % (reply.status, _PHRASES.get(reply.status, b""))
        if b"date: " not in reply.lines:
            start += date_line().encode() + b"\r\n"
        head: ResponseHead = ResponseHead.parse(start + reply.lines + b"\r\n", 0, x.is_head)  # type: ignore[assignment]  # it ends
        flags = head.flags
        x.sse = scan_of(flags) == _SCAN_EVENTS
        whole = reply.pieces is None
        length = len(reply.body) if whole else frame(x, flags, -1, True)
        if flags & _NO_BODY and not (x.is_head and whole):
            length = -1
        x.keep_alive = x.body_done and (x.flags & _KEEP_ALIVE) != 0 and not x.to_close
        x.overhead_ns += now_ns - x.ready_ns
        disclosure = x.cors if x.answer_lines is None else x.cors + x.answer_lines
        data = self._write_head(
            head, length, x.keep_alive, x.request_id, disclosure, 0, x.overhead_ns // 1000, x.reservation
        )
        if whole or flags & _NO_BODY:
            if not flags & _NO_BODY:
                x.bytes_out = len(reply.body)
                data += reply.body
            self._to_client(x, data)
            x.head_sent = True
            self._done(x, monotonic_ns())
            return
        self._to_client(x, data)
        x.head_sent = True
        x.deadline_ns = now_ns + x.route.chunk_ns
        self._pour(x)

    def _pour(self, x: Exchange) -> None:
        """Write pieces of a reply of our own as long as the client reads."""
        downstream = x.downstream
        pieces: Iterator[bytes] = x.reply.pieces  # type: ignore[union-attr,assignment]  # only called for such a reply
        while downstream.writable and not x.closed:
            try:
                piece = next(pieces, None)
            except Exception as error:  # noqa: BLE001 - a stage's iterator: this exchange's alone
                self.crashed(x, error)
                return
            if piece is None:
                if x.chunked:
                    self._to_client(x, _LAST_CHUNK)
                self._done(x, monotonic_ns())
                return
            if piece:
                x.progressed = True
                x.bytes_out += len(piece)
                self._to_client(x, chunk(piece) if x.chunked else piece)

    def waited(self, x: Exchange, error: Exception | None) -> None:
        """Continue the plan after a stage's wait, or handle the wait's error."""
        x.task = None
        if x.closed:
            return
        x.ready_ns = monotonic_ns()
        if x.trace is not None:
            x.trace.note(_WAITED, x.ready_ns)
        if error is None:
            self._plan(x)
        elif isinstance(error, GatewayError):
            self._refuse(x, error)
        else:
            self.crashed(x, error)

    def crashed(self, x: Exchange, error: Exception) -> None:
        """End an exchange, once, after a defect of ours; other exchanges are not affected. An answer that its adapter
        could not translate is the upstream's fault, and another upstream may have a better one."""
        if isinstance(error, GatewayError) and error.who == "upstream" and not x.closed:
            try:
                self.lost(x, error)
                return
            except Exception as defect:  # noqa: BLE001 - the same edge
                error = defect
        if x.primary is not None:
            x = x.primary
        self._enter(x)
        _log.error("exchange %s failed", x.request_id, exc_info=error)
        if x.closed:  # its client has no response yet, and waits
            x.downstream.abort()
            return
        try:
            self.give_up(x, InternalError(f"internal error ({type(error).__name__})"))
        except Exception as defect:  # noqa: BLE001 - what it holds must be given back, whatever else goes wrong
            _log.error("exchange %s could not be answered", x.request_id, exc_info=defect)
            self._close(x, TRUNCATED if x.head_sent else REFUSED, VERDICT_NEUTRAL, monotonic_ns())
            x.downstream.abort()

    def _enter(self, x: Exchange) -> None:
        """Count an exchange and give it a request id, unless that was done."""
        if x.request_id:
            return
        self.in_flight += 1
        given = x.head.request_id if x.flags & _NAMED else None
        x.request_id = self._next_id() if given is None else given
        if self._tracer is not None:
            x.trace = self._tracer.decide(x.head)
            if x.trace is not None:
                x.trace.note(_READY, x.ready_ns)

    def gone(self, x: Exchange) -> None:
        """End an exchange whose client left, and its upstream request, whatever its phase."""
        self._enter(x)
        self._close(x, CLIENT_GONE, VERDICT_NEUTRAL, monotonic_ns())

    def writable(self, x: Exchange, ok: bool) -> None:
        """Pause or resume the upstream, because the client reads too slowly, or caught up (`ok`)."""
        if x.connection is None:
            if ok and x.reply is not None and x.head_sent and not x.closed:
                self._pour(x)
            return
        if ok:
            x.progressed = True
            x.connection.resume_reading()
        else:
            x.connection.pause_reading()

    def fail(self, x: Exchange, error: GatewayError) -> None:
        """End an exchange whose request went wrong while it was read."""
        self._enter(x)
        self.give_up(x, error)

    def refuse_malformed(self, connection: ServerConnection, error: GatewayError, data: bytes, dialect: int) -> None:
        """Answer a request that never became an exchange, because it has no valid head."""
        snapshot: Snapshot = self.snapshot  # type: ignore[assignment]  # connections are accepted after the first one
        request_id = self._next_id()
        body = body_bytes(error, request_id, dialect)
        connection.write(response_bytes(error, request_id, body, True, 0, snapshot.origins.malformed(data)))
        self._recorder.refuse(connection.client, request_id, error, len(body), monotonic_ns())

    def sweep(self, x: Exchange, now_ns: int) -> None:
        """Check an exchange's deadlines, four times a second."""
        route = x.route
        if x.closed or route is None:
            return
        if now_ns - x.started_ns > route.total_ns or (x.until_ns and now_ns > x.until_ns):
            self._expire(x, "total")
        elif x.progressed:
            x.progressed = False
            x.stalled = False
            x.last_byte_ns = now_ns
            if x.head_sent or x.held is not None:
                x.deadline_ns = now_ns + route.chunk_ns
        elif x.deadline_ns and now_ns > x.deadline_ns:
            if x.head_sent and not x.downstream.writable:
                # The client stalls, not the upstream that we hold back for it: the client gets SEND_NS to read on.
                if x.stalled:
                    self._close(x, CLIENT_GONE, VERDICT_NEUTRAL, now_ns)
                    x.downstream.abort()
                    return
                x.stalled = True
                x.deadline_ns = now_ns + SEND_NS
            else:
                self._expire(x, "chunk" if x.head_sent else "first_byte")
        else:
            if route.comment_ns and x.sse and now_ns - x.last_byte_ns > route.comment_ns:
                self._comment(x, now_ns)
            if x.deadline_ns and x.index >= 0 and x.connection is not None:
                self._suspect(x, now_ns)

    # ---------------------------------------------------------------- the request's body, as it streams

    def body(self, x: Exchange, data: bytes) -> None:
        """Forward a piece of a streamed request body."""
        connection = x.connection
        if x.closed:
            return
        if x.form is not None and not x.model and x.form.model and x.route is not None:
            try:
                x.snapshot.routes.name_late(x, x.form.model)
            except GatewayError as error:
                self.give_up(x, error)
                return
        if connection is None:
            # Still dialling: buffer the piece, and let the client wait.
            x.send_body = data if x.send_body is None else x.send_body + data
            x.downstream.pause_reading()
        else:
            connection.send_more(data if x.head.content_length >= 0 else chunk(data), False)

    def body_end(self, x: Exchange) -> None:
        """Forward the end of a streamed request body."""
        if x.closed or x.connection is None:
            return
        x.connection.send_more(b"" if x.head.content_length >= 0 else b"0\r\n\r\n", True)
        x.answer_ns = monotonic_ns() + x.route.first_byte_ns
        x.deadline_ns = x.answer_ns

    def upstream_writable(self, x: Exchange, ok: bool) -> None:
        """Pause or resume the client, because the upstream takes a streamed body too slowly, or caught up (`ok`)."""
        if ok:
            x.downstream.resume_reading()
        else:
            x.downstream.pause_reading()
        if not x.head_sent and not x.body_done:
            # The deadline for a response starts with the request's end; before it, only an upstream that takes no bytes
            # is late.
            x.deadline_ns = 0 if ok else monotonic_ns() + x.route.first_byte_ns

    # ---------------------------------------------------------------- upstream events

    def response(self, x: Exchange, head: ResponseHead, now_ns: int) -> None:
        """Send a response that came whole."""
        target = x.target
        target.pool.last_heard_ns = now_ns
        x.connection = None
        if x.status == 429 or x.status == 503:
            self._pause(x, head, now_ns)
        self._answer(x, head, True, now_ns)

    def response_head(self, x: Exchange, head: ResponseHead, now_ns: int) -> Any | None:
        """Set up the body's pump, and hold the head back until something follows it."""
        target = x.target
        target.pool.last_heard_ns = now_ns
        if x.status == 429 or x.status == 503:
            self._pause(x, head, now_ns)
        self._answer(x, head, False, now_ns)
        return x.pump

    def response_data(self, x: Exchange, out: bytes) -> None:
        """Send a piece of the body; while the head is held, keep it behind that."""
        if x.held is not None:
            self._keep(x, out)
            self.response_flush(x)
            return
        if x.sse and not x.token_ns and has_spoken(x):
            x.token_ns = monotonic_ns()
        x.progressed = True
        self._to_client(x, out)

    def response_flush(self, x: Exchange) -> None:
        """Send the held head and what is kept behind it, unless the check of the response needs more of it."""
        if x.held is None or not self._may_leave(x, False):
            return
        if x.began_ns:
            x = self.sender.won(x)
        out = self._let_go(x)
        if x.sse and not x.token_ns and has_spoken(x):
            x.token_ns = monotonic_ns()
        x.progressed = True
        self._to_client(x, out)

    def response_end(self, x: Exchange, out: bytes | None, now_ns: int) -> None:
        """Send the rest of the body, and end the exchange."""
        target = x.target
        target.pool.last_heard_ns = now_ns
        x.connection = None
        if x.held is not None:
            self._keep(x, out)
            if not self._may_leave(x, True):
                return
            if x.began_ns:
                x = self.sender.won(x)
            out = self._let_go(x)
        if x.sse and not x.token_ns and has_spoken(x):
            x.token_ns = now_ns
        x.progressed = True
        if x.has_terminator and judge_end(x) != _PASS:
            if out:
                self._to_client(x, out)
            self.give_up(x, x.doubt)  # type: ignore[arg-type]  # the judge says why it fails
            return
        # The bytes that the pump held back, and our own terminator.
        last = x.pump.finish()
        out = last if out is None else out + last
        if out:
            self._to_client(x, out)
        self._done(x, now_ns)

    def _keep(self, x: Exchange, out: bytes | None) -> None:
        """Keep a piece of the body behind the held head."""
        if out is not None:
            if x.waiting is None:
                x.waiting = []
            x.waiting.append(out)
            x.waiting_bytes += len(out)

    def _may_leave(self, x: Exchange, complete: bool) -> bool:
        """Return whether a held head may leave now: nothing is checked, or the response passed the check."""
        if not x.hold:
            return True
        destination = x.destination
        return not self._is_held(x, judge(x, complete, destination.hold_bytes))

    def _is_held(self, x: Exchange, judgement: int) -> bool:
        """Return whether a response must not be passed on: not yet, or not at all, because another attempt has begun or
        the exchange ended with an error."""
        if judgement == _PASS:
            return False
        if judgement == _WAIT:
            if not x.sse:
                # Every byte of a document is progress; comments in a stream are not.
                x.progressed = True
            return True
        may = not x.streamed and x.route.may_replay(x)
        if judgement == _CONTEXT:
            return may and self.sender.another(x, VERDICT_NEUTRAL, FALLBACK, -1, monotonic_ns())
        if not may or not self.sender.another(x, VERDICT_FAILURE, BROKEN, -1, monotonic_ns()):
            self.give_up(x, x.doubt)  # type: ignore[arg-type]  # the judge says why it fails
        return True

    def _let_go(self, x: Exchange) -> bytes:
        """Release the held head, with the bytes that waited behind it."""
        out: bytes = x.held  # type: ignore[assignment]  # only called while there is one
        x.held = None
        if x.waiting is not None:
            out += b"".join(x.waiting)
            x.waiting = None
        self._began(x)
        return out

    def _comment(self, x: Exchange, now_ns: int) -> None:
        """Send a comment into a silent stream, so that its client goes on waiting. A held head is released first, so
        the response begins with it."""
        downstream = x.downstream
        x.last_byte_ns = now_ns
        if x.held is not None:
            if x.began_ns:
                x = self.sender.won(x)
            deadline_ns = x.deadline_ns
            x.read_ns = monotonic_ns()
            self._to_client(x, self._let_go(x))
            x.deadline_ns = deadline_ns
        if x.chunked and downstream.writable and x.pump is not None and x.pump.between_events:
            x.bytes_out += len(_COMMENT)
            downstream.write(chunk(_COMMENT))  # no part of the answer: past the tap

    def lost(self, x: Exchange, error: GatewayError) -> None:
        """Retry or fail an exchange whose upstream connection ended before its response."""
        x.connection = None
        if x.closed:
            return
        if not x.head_sent and not x.streamed and x.route.may_replay(x):
            now_ns = monotonic_ns()
            # Not after a byte of a response: a malformed one is no sign of a stale connection.
            stale = x.reused and not x.force_dial and not x.heard
            if stale and x.other is None:
                # The keep-alive race: the upstream closed as we wrote. Try once more, on a new connection.
                self.sender.note_failure(x, x.target, STALE, now_ns)
                x.force_dial = True
                x.destination_attempts -= 1
                x.retries += 1 << (8 * STALE)
                self.sender.retry(x, 0, now_ns)
                return
            if self.sender.another(x, VERDICT_NEUTRAL if stale else VERDICT_FAILURE, BROKEN, -1, now_ns):
                return
        if x.streamed and not x.body_done:
            # The upstream waited for the rest of an upload: giving up then is not its fault.
            error.blames = False
        self.give_up(x, error)

    def _suspect(self, x: Exchange, now_ns: int) -> None:
        """Have an upstream probed that is silent for a while, to this exchange and to all others."""
        route = x.route
        target = x.target
        since_ns = x.deadline_ns - route.chunk_ns if x.head_sent else x.answer_ns - route.first_byte_ns
        if x.ready_ns > since_ns:
            since_ns = x.ready_ns
        since_ns = max(since_ns, target.pool.last_heard_ns)
        if now_ns - since_ns > SUSPECT_NS and (x.downstream.writable or not x.head_sent):
            destination = x.destination
            balancer: Balancer = destination.balancer
            balancer.suspect(x, now_ns)

    def _pause(self, x: Exchange, head: ResponseHead, now_ns: int) -> None:
        """Give an upstream that sent retry-after a pause, if others of its provider are left."""
        words = head.header("retry-after")
        if words is not None and x.index >= 0:
            destination = x.destination
            balancer: Balancer = destination.balancer
            balancer.rest(x, seconds_of(words, time()), now_ns)

    def switched(self, x: Exchange, connection: ClientConnection, head: ResponseHead, rest: bytes) -> None:
        """Start the tunnel after the upstream accepted the handshake: it owns both connections from now on."""
        handshake = x.handshake
        try:
            lines = handshake.accept(head)
        except GatewayError as error:
            connection.abort()
            self.lost(x, error)
            return
        target = x.target
        downstream = x.downstream
        now_ns = monotonic_ns()
        x.status = head.status
        x.first_byte_ns = now_ns
        x.head_sent = True
        x.connection = None
        x.deadline_ns = 0
        lines += target.disclosure
        attempts = x.attempts if target.disclosure else 0
        took_us = x.overhead_ns // 1000
        data = self._write_switch(
            head, -1, True, x.request_id, lines, attempts, took_us, x.reservation, target.redactor
        )
        if x.index >= 0:
            # A breaker's trial does not last as long as the WebSocket.
            x.destination.balancer.answered(x, now_ns)
        if x.tap is not None:
            x.tap.copy(x, data)
        place, downstream.place = downstream.place, 0
        client, early, server_state = downstream.surrender()
        settings: Any = x.route.record.websocket  # set, because a route without it accepts no handshake
        tunnel = Tunnel(self, x, server_state, settings, handshake.deflate, self.sockets, place)
        tunnel.open(client, connection.surrender(), data, rest, early)

    def socket_ended(self, x: Exchange, outcome: int, verdict: int, now_ns: int) -> None:
        """End the exchange with its tunnel."""
        self._close(x, outcome, verdict, now_ns)

    def _answer(  # noqa: C901 - one answer, top to bottom
        self, x: Exchange, head: ResponseHead, complete: bool, now_ns: int
    ) -> None:
        """Send the response's head, and its body if that is here; else set up the pump for it."""
        x.first_byte_ns = now_ns
        body: bytes | None = None  # if it is not what came
        status = x.status
        flags = x.response_flags
        length = x.declared_length
        if status >= 400 and self._is_turned_away(x, head, complete, now_ns):
            return
        keep_alive = x.body_done and (x.flags & _KEEP_ALIVE) != 0
        scan = scan_of(flags)
        x.sse = scan == _SCAN_EVENTS
        adapter: Passthrough = x.adapter
        destination = x.destination
        target = x.target
        redactor = target.redactor
        edits: Any = None  # transform.answers.AnswerEdits
        if destination.transforms is not None and status < 300:
            edits = destination.transforms.answer(x)
        if flags & _LOCATED:
            head = target.relocate(head, x.is_head)
        if complete and not flags & _NO_BODY:
            doubtful = (
                flags & _DOUBTFUL and status == 200 and destination.hold_bytes and length <= destination.hold_bytes
            )
            if doubtful and self._is_held(x, judge_document(x, status, head.body() or b"")):
                return
            if x.sse and length:
                # Its events are checked as if they had come one by one.
                self._answer_stream(x, head, now_ns)
                return
            if scan == _SCAN_DOCUMENT:
                x.document = head
            body = adapter.document(x, head)
            if edits is not None:
                body = edits.document(head.body() or b"" if body is None else body)
            if body is not None:
                length = len(body)
        else:
            changes = x.sse or adapter.alters(x) or (edits is not None and edits.alters)
            length = frame(x, flags, length, changes)
        if x.to_close:
            keep_alive = False
        if not complete:
            x.pump = adapter.body(x, head) if edits is None else edits.pump(x, head, adapter)
            if scan != 0 and destination.hold_bytes:
                attempts: Attempts = x.route.attempts
                hold(x, status, attempts.minds_context)
        x.keep_alive = keep_alive
        disclosure = target.disclosure
        count = x.attempts if disclosure else 0
        if x.cors:
            disclosure = disclosure + x.cors
        if x.trace is not None and self._times:
            disclosure = disclosure + timing_lines(x.trace, x.started_ns, now_ns, monotonic_ns())
        write_head = self._write_head
        if x.answer_lines is not None:
            disclosure = disclosure + x.answer_lines
            write_head = self._write_translated
        if edits is not None:
            edited = edits.head(x)
            disclosure = disclosure + edited.lines
            write_head = edited.write
        overhead_us = x.overhead_ns // 1000
        if complete and body is None and not flags & _NO_BODY:
            data = self._write_whole(
                head, keep_alive, x.request_id, disclosure, count, overhead_us, x.reservation, redactor
            )
            x.bytes_out = length
        else:
            data = write_head(
                head, length, keep_alive, x.request_id, disclosure, count, overhead_us, x.reservation, redactor
            )
            if not complete:
                x.held = data
                x.read_ns = monotonic_ns()
                x.overhead_ns += x.read_ns - now_ns
                return
            if body is not None:
                x.bytes_out = len(body)
                data += body if redactor is None or status < 300 else redactor.blot(body)
        self._to_client(x, data)
        x.head_sent = True
        sent_ns = monotonic_ns()
        x.overhead_ns += sent_ns - now_ns
        self._done(x, sent_ns)

    def _began(self, x: Exchange) -> None:
        """Note that the head leaves: from now on the exchange cannot be tried again."""
        route = x.route
        now_ns = monotonic_ns()
        x.head_sent = True
        # Free the request, because a stream may last long.
        x.body = None
        x.send_body = None
        x.peek = None
        x.overhead_ns += now_ns - x.read_ns
        x.deadline_ns = now_ns + route.chunk_ns
        if x.index >= 0 and x.status < 500 and x.status != 429:
            destination = x.destination
            balancer: Balancer = destination.balancer
            balancer.answered(x, now_ns)

    def _answer_stream(self, x: Exchange, head: ResponseHead, now_ns: int) -> None:
        """Handle a whole event stream that came in one read: it is framed anew, so that we write its end."""
        self._answer(x, head, False, now_ns)
        out = x.pump.feed(head.body())  # type: ignore[arg-type]  # the body came with the head
        self.response_end(x, out, now_ns)

    def _is_turned_away(self, x: Exchange, head: ResponseHead, complete: bool, now_ns: int) -> bool:
        """Return whether an error response is not passed on, because the exchange is tried again."""
        attempts: Attempts = x.route.attempts
        if x.other is not None and (x.status >= 500 or x.status == 429):
            # Even for a status that is not retried: the other attempt may bring a better response.
            return self.sender.another(x, verdict_of(x.status), BROKEN, -1, now_ns)
        if x.status == 400:
            if not (complete and attempts.minds_context):
                return False
            return self._is_held(x, judge_document(x, 400, head.body() or b""))
        target = x.target
        delay_ns = attempts.better(x, head, now_ns)
        if delay_ns < 0:
            return False
        self.sender.note_failure(x, target, PRESSURE if x.status in (429, 503) else FAILURE, now_ns)
        self.sender.retry(x, delay_ns, now_ns)
        return True

    # ---------------------------------------------------------------- the answer's way out

    def _to_client(self, x: Exchange, data: bytes) -> None:
        """Write a part of the answer, the head first. Everything that belongs to an answer passes here."""
        downstream = x.downstream
        downstream.write(data)
        if x.tap is not None:
            x.tap.copy(x, data)

    # ---------------------------------------------------------------- endings

    def _done(self, x: Exchange, now_ns: int) -> None:
        downstream = x.downstream
        if x.began_ns:
            x = self.sender.won(x)
        if x.error:
            self._close(x, TRUNCATED, VERDICT_NEUTRAL, now_ns)
        else:
            if x.peek is not None and self.fastpath is not None:
                self.fastpath.insert(x, now_ns)
            self._close(x, COMPLETE, verdict_of(x.status), now_ns)
        downstream.finish(x.keep_alive)

    def _expire(self, x: Exchange, phase: Any) -> None:
        name = x.target.label if x.target is not None else "?"
        now_ns = monotonic_ns()
        if x.until_ns and now_ns >= x.until_ns:
            self.give_up(x, DeadlineExceeded("the client's x-request-timeout expired"))
            return
        early = phase == "first_byte" and now_ns < x.answer_ns
        if early and not x.streamed and x.route.may_replay(x):
            # An upstream that exceeded half of the client's own timeout is not to blame.
            hasty = x.until_ns and x.answer_ns == x.until_ns and not x.destination.first_event_ns
            if self.sender.another(x, VERDICT_NEUTRAL if hasty else VERDICT_FAILURE, TIMEOUT, -1, now_ns):
                return
        if early:
            # There is no other upstream: this one gets the rest of the time.
            x.deadline_ns = x.answer_ns
            return
        error = UpstreamTimeout(f"upstream {name} was too slow ({phase})", phase=phase)
        # An upstream that answered is not to blame for the total timeout: models think, and write at length.
        error.blames = not x.head_sent and (phase != "total" or verdict_of_delay(x, now_ns) == VERDICT_FAILURE)
        self.give_up(x, error)

    def give_up(self, x: Exchange, error: GatewayError) -> None:
        """End an exchange with an error: as a response in the dialect while nothing was sent, else by breaking the
        stream off."""
        if x.closed:
            return
        downstream = x.downstream
        x.error = error.code
        upstream_fault = error.who == "upstream"
        verdict = VERDICT_FAILURE if upstream_fault and error.blames else VERDICT_NEUTRAL
        if x.head_sent:
            if x.sse and x.chunked and downstream.writable and x.pump is not None and x.pump.between_events:
                # The error is an event of its own; without a terminator behind it no client takes the stream for
                # complete. The pump holds partial events back: there is no room for ours only inside an event that is
                # too long to be held.
                adapter: Passthrough = x.adapter
                told = adapter.error(x, error)
                x.bytes_out += len(told)
                self._to_client(x, chunk(told))
            self._close(x, TRUNCATED, verdict, monotonic_ns())
            downstream.break_off(not x.to_close)
            return
        x.status = error.status
        x.sse = False
        x.chunked = False
        x.pump = None
        x.keep_alive = x.body_done and (x.flags & _KEEP_ALIVE) != 0
        count = x.attempts if x.target is not None and x.target.disclosure else 0
        snapshot: Snapshot = self.snapshot  # type: ignore[assignment]  # connections are accepted after the first one
        lines = snapshot.origins.lines(x.head) if x.route is None else x.cors
        if x.adapter is None:  # refused before a destination was chosen
            body = body_bytes(error, x.request_id, x.dialect)
        else:
            adapter = x.adapter
            body = adapter.error(x, error)
        data = response_bytes(error, x.request_id, body, not x.keep_alive, count, lines)
        x.bytes_out = len(body)
        self._tell(x, data, UPSTREAM_FAILED if upstream_fault else REFUSED, verdict)

    def _tell(self, x: Exchange, data: bytes, outcome: int, verdict: int) -> None:
        """End an exchange with a response of our own."""
        downstream = x.downstream
        self._to_client(x, data)
        self._close(x, outcome, verdict, monotonic_ns())
        downstream.finish(x.keep_alive)

    def _close(self, x: Exchange, outcome: int, verdict: int, now_ns: int) -> None:
        """Give back everything that the exchange holds, and record it. The only place that does."""
        if x.closed:
            return
        x.closed = True
        self.in_flight -= 1
        x.deadline_ns = 0
        if x.other is not None:
            self.sender.cancel_other(x, now_ns)
        destination = x.destination
        if x.index >= 0:
            balancer: Balancer = destination.balancer
            balancer.release(x, verdict, now_ns)
        connection = x.connection
        if connection is not None:
            x.connection = None
            connection.abort()
        waiter = x.waiter
        if waiter is not None:
            x.waiter = None
            waiter.leave()
        task = x.task
        if task is not None:
            x.task = None
            task.cancel()
        timer = x.timer
        if timer is not None:
            x.timer = None
            timer.cancel()
        try:
            self._settle(x, outcome, now_ns)
        except Exception as error:  # noqa: BLE001 - what became of it was done already: its client must not wait for the books
            _log.error("exchange %s could not be recorded", x.request_id, exc_info=error)
        if x.tap is not None:
            x.tap.close(x, outcome)
            x.tap = None
        # The connection may keep the exchange until its next one: free the bulk.
        x.body = None
        x.send_body = None
        x.document = None
        x.peek = None

    def _settle(self, x: Exchange, outcome: int, now_ns: int) -> None:
        """Write an exchange's record, and settle its limits by the usage that was recorded."""
        target = x.target
        upstream = "" if target is None else target.label
        route = x.route
        if self._explains:
            explain(x, outcome, now_ns)
        if route is None:
            self._recorder.record(x, outcome, 0, 0, upstream, None, now_ns)
            return
        destination = x.destination
        snapshot: Snapshot = x.snapshot
        limits: Limits = snapshot.limits
        self._recorder.record(x, outcome, route.label, destination.label, upstream, limits.price(x), now_ns)
        if x.global_reservation is not None:
            x.global_reservation.settle(*self._recorder.used())
            x.global_reservation = None
        if x.reservation is not None:
            x.reservation = None
            limits.released()
