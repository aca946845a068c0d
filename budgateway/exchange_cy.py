"""The exchange: one request and its response in flight, with all that the stages learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgateway.native import BodyPeek, ModelRewriter, RequestHead, UsageScanner
    from budgateway.records import Principal

# How an exchange ends; the numbers are the native core's OUTCOME_*.
COMPLETE = 0
REFUSED = 1
UPSTREAM_FAILED = 2
TRUNCATED = 3
CLIENT_GONE = 4


class Exchange:
    """Filled by the stages from top to bottom, executed by the relay, closed exactly once.

    It owns what must be given back: the in-flight slot (`balancer`, `index`), the upstream connection, a running task.
    """

    def __init__(self, head: RequestHead, downstream: Any, client: str, now_ns: int) -> None:
        # request
        self.head = head
        self.downstream = downstream
        self.client = client
        self.started_ns = now_ns
        self.ready_ns = now_ns
        self.flags = head.flags
        self.request_id = ""
        self.body: bytes | None = None  # whole; None while it streams
        self.body_bytes = 0
        self.body_done = False
        self.to_head = False
        # stages
        self.snapshot: Any = None
        self.principal: Principal | None = None
        self.peek: BodyPeek | None = None
        self.model = ""
        self.model_label = 0
        self.route: Any = None
        # attempt
        self.balancer: Any = None
        self.index = -1
        self.tried = 0
        self.attempts = 0
        self.target: Any = None
        self.send_body: bytes | None = None
        self.connection: Any = None
        self.task: Any = None
        self.reused = False
        self.fresh = False
        self.rename = False
        # response
        self.status = 0
        self.error = ""
        self.deadline_ns = 0
        self.progressed = False
        self.chunked = False
        self.sse = False
        self.to_close = False
        self.keep_alive = False
        self.head_sent = False
        self.closed = False
        self.sent_ns = 0
        self.first_byte_ns = 0
        self.overhead_ns = 0
        self.bytes_out = 0
        self.scanner: UsageScanner | None = None
        self.rewriter: ModelRewriter | None = None
