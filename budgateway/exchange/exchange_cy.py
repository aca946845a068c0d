"""The exchange: one request and its response in flight, with all that the stages have decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgateway.errors import GatewayError
    from budgateway.exchange.collaborators import (
        CompiledRouteLike,
        DestinationLike,
        Downstream,
        Pump,
        TargetLike,
        UpstreamConnection,
    )
    from budgateway.exchange.reply import Reply
    from budgateway.native import BodyPeek, HeadEdits, RequestHead, Reservation, ResponseHead, Trace, Translation
    from budgateway.records import Principal
    from budgateway.wire.multipart import FormReader

# Outcomes of an exchange; the numbers are the native core's OUTCOME_*.
COMPLETE = 0
REFUSED = 1
UPSTREAM_FAILED = 2
TRUNCATED = 3
CLIENT_GONE = 4


class Exchange:
    """One exchange: filled by the stages from top to bottom, executed by the relay, closed exactly once.

    It owns what must be given back: the in-flight slot (`destination.balancer`, `index`), the upstream connection, a
    running task.

    A hedged exchange has two attempts at a time. The second one runs in a twin: an `Exchange` of which the groups
    "attempt" and "response" are its own, and the others copies of its primary's, for reading only. `other` links the
    two while both are in flight; `primary` leads from the twin to the exchange. As soon as one of the two is left, the
    primary continues with it (`become`), and every later event of its connection is the primary's. A twin is never
    closed or recorded, and no stage sees one.
    """

    def __init__(self, head: RequestHead, downstream: Any, client: str, now_ns: int) -> None:
        # request
        self.head = head
        self.downstream: Downstream = downstream
        self.client = client
        self.network = client  # as limits count it: an IPv6 client's network
        self.started_ns = now_ns
        self.ready_ns = now_ns
        self.flags = 0
        self.dialect = 0  # in wire.dialects
        self.request_id = ""
        self.body: bytes | None = None  # whole; None while it streams
        self.body_bytes = 0
        self.body_done = False
        self.form: FormReader | None = None
        self.is_head = False
        self.trace: Trace | None = None
        # stages
        self.resume_at = 0
        self.step = 0
        self.reply: Reply | None = None
        self.tap: Any = None  # exchange.tap.Tap
        self.snapshot: Any = None  # proxy.pipeline_cy.Snapshot; only proxy/ reads it
        self.principal: Principal | None = None
        self.verified: Any = None
        self.principal_lines: bytes | None = None
        self.limit_key = client
        self.reservation: Reservation | None = None
        self.global_reservation: Any = None
        self.peek: BodyPeek | None = None
        self.streams = False
        self.model = ""
        self.hides_model = False
        self.model_label = 0
        self.route: CompiledRouteLike | Any = None  # Any: None until the router has set it
        self.destination: DestinationLike | Any = None
        self.handshake: Any = None
        self.cors = b""
        self.pin: str | None = None
        self.transforms: tuple[str, ...] | None = None
        # attempt
        self.index = -1
        self.note = 0
        self.tried = 0
        self.attempts = 0
        self.destination_attempts = 0
        self.fallback = 0
        self.retries = 0
        self.until_ns = 0
        self.answer_ns = 0
        self.timer: Any = None
        self.other: Any = None
        self.primary: Any = None
        self.began_ns = 0
        self.span = -1
        self.target: TargetLike | Any = None  # Any: None until the balancer has set it
        self.adapter: Any = None
        self.head_edits: HeadEdits | None = None
        self.translation: Translation | None = None
        self.send_body: bytes | None = None
        self.connection: UpstreamConnection | None = None
        self.task: Any = None
        self.waiter: Any = None
        self.reused = False
        self.force_dial = False
        self.heard = False
        self.reported_early = False
        self.streamed = False
        self.request_sent = False
        self.rename = False
        self.keeps_usage = False
        # response
        self.status = 0
        self.response_flags = 0
        self.declared_length = -1
        self.error = ""
        self.deadline_ns = 0
        self.progressed = False
        self.stalled = False
        self.chunked = False
        self.sse = False
        self.to_close = False
        self.keep_alive = False
        self.head_sent = False
        self.closed = False
        self.first_byte_ns = 0
        self.token_ns = 0
        self.read_ns = 0
        self.overhead_ns = 0
        self.bytes_out = 0
        self.pump: Pump | Any = None  # Any: None until a body streams
        self.answer_lines: bytes | None = None
        self.document: bytes | ResponseHead | None = None
        self.held: bytes | None = None
        self.hold = 0
        self.has_terminator = False
        self.doubt: GatewayError | None = None
        self.waiting: list[bytes] | None = None
        self.waiting_bytes = 0
        self.last_byte_ns = now_ns

    def twin(self, now_ns: int) -> Exchange:
        """Create a concurrent second attempt of the same request, with a slot, a connection and a response of its own.
        It is not an exchange of its own: `become` makes its attempt the first one's."""
        h = Exchange(self.head, self.downstream, self.client, self.started_ns)
        h.ready_ns = now_ns
        h.flags = self.flags
        h.dialect = self.dialect
        h.request_id = self.request_id
        h.body_done = True
        h.is_head = self.is_head
        h.trace = self.trace
        h.reservation = self.reservation
        h.peek = self.peek
        h.streams = self.streams
        h.model = self.model
        h.hides_model = self.hides_model
        h.route = self.route
        h.destination = self.destination
        h.pin = self.pin
        h.transforms = self.transforms
        h.limit_key = self.limit_key
        h.body_bytes = self.body_bytes
        h.cors = self.cors
        h.tap = self.tap
        bit = 1
        bit <<= self.index  # in C, `1 << n` would be an int
        h.tried = self.tried | bit
        h.attempts = self.attempts
        h.destination_attempts = self.destination_attempts
        h.fallback = self.fallback
        h.until_ns = self.until_ns
        h.answer_ns = self.answer_ns
        h.adapter = self.adapter
        h.head_edits = self.head_edits
        h.translation = self.translation
        h.send_body = self.send_body
        h.rename = self.rename
        h.keeps_usage = self.keeps_usage
        h.began_ns = self.began_ns
        h.other = self
        h.primary = self
        return h

    def become(self, h: Exchange) -> None:
        """Continue with a twin's attempt; what the twin held belongs to this exchange from now on."""
        # attempt
        self.index = h.index
        self.note = h.note
        h.index = -1
        self.tried = h.tried
        self.trace = h.trace
        self.span = h.span
        self.target = h.target
        self.answer_ns = h.answer_ns
        self.ready_ns = h.ready_ns
        self.connection = h.connection
        h.connection = None
        self.task = h.task
        h.task = None
        self.reused = h.reused
        self.force_dial = h.force_dial
        self.heard = h.heard
        self.overhead_ns += h.overhead_ns
        # response
        self.status = h.status
        self.response_flags = h.response_flags
        self.declared_length = h.declared_length
        self.deadline_ns = h.deadline_ns
        self.progressed = h.progressed
        self.chunked = h.chunked
        self.sse = h.sse
        self.to_close = h.to_close
        self.keep_alive = h.keep_alive
        self.head_sent = h.head_sent
        self.first_byte_ns = h.first_byte_ns
        self.token_ns = h.token_ns
        self.read_ns = h.read_ns
        self.bytes_out = h.bytes_out
        self.pump = h.pump
        self.answer_lines = h.answer_lines
        self.document = h.document
        self.held = h.held
        self.hold = h.hold
        self.has_terminator = h.has_terminator
        self.doubt = h.doubt
        self.waiting = h.waiting
        self.waiting_bytes = h.waiting_bytes
        if self.connection is not None:
            self.connection.rebind(self)
