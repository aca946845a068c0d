"""Response checks: whether a response is an answer, decided before a byte of it reaches the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.errors import GatewayError, UpstreamError, UpstreamProtocolError
from budgateway.native import VERDICT_FAILURE, VERDICT_NEUTRAL, VERDICT_SUCCESS
from budgateway.records import is_inference
from budgateway.wire.chunked_cy import unchunk
from budgateway.wire.inference import ERROR_BODIES, is_context_error, told_error

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange

# Values of `x.hold`: what a response's head waits for.
HOLD_NOTHING = 0
HOLD_EVENT = 1  # the first event of a stream
HOLD_DOCUMENT = 2  # the end of a document

# Flags of heads.
_HTTP_10 = 16
_JSON = 32
_EVENT_STREAM = 128
_ENCODED = 256
_NO_BODY = 512

# The pump's SEEN_*.
_SEEN_EVENT = 1
_SEEN_ERROR_FIRST = 2
_SEEN_OTHER_FIRST = 4
_SEEN_END = 8
_SEEN_ERROR = 16
_SEEN_PROMISE = 32
_SEEN_CONTENT = 64

# Results of a check.
PASS = 0  # the response is an answer
WAIT = 1  # undecided: hold more of it
FAIL = 2  # it is no answer; `x.doubt` is the error
CONTEXT = 3  # it is an error: the prompt exceeds the model's context


def verdict_of(status: int) -> int:
    """Return a status's verdict on the upstream (RELIABILITY 2.6): a success for 4xx, neutral for back-pressure, which
    Anthropic's API reports with 529."""
    if status < 500 or status == 501:
        return VERDICT_NEUTRAL if status == 429 else VERDICT_SUCCESS
    return VERDICT_NEUTRAL if status == 503 or status == 529 else VERDICT_FAILURE


def verdict_of_delay(x: Exchange, now_ns: int) -> int:
    """Return the verdict on the upstream when an exchange exceeds its total time: neutral, unless most of that was
    spent waiting for this upstream to begin. The rest went to a slow upload, a slow reader, a queue, other attempts, a
    long response."""
    if x.head_sent or x.held is not None or (x.streamed and not x.body_done):
        return VERDICT_NEUTRAL
    since_ns: int = max(x.ready_ns, x.answer_ns - x.route.first_byte_ns)
    total_ns: int = x.route.total_ns
    return VERDICT_FAILURE if 2 * (now_ns - since_ns) > total_ns else VERDICT_NEUTRAL


def scan_of(flags: int) -> int:
    """Return what the pump looks for in a body whose head has these flags: a SCAN_*, 0 for nothing."""
    if flags & _ENCODED:
        return 0
    return 2 if flags & _EVENT_STREAM else 1 if flags & _JSON else 0


def frame(x: Exchange, flags: int, length: int, changes: bool) -> int:
    """Choose the client's framing of a body that is not complete yet: its length, -1 for none, -2 for chunked. `length`
    is what its head says, `changes` that the body may get longer or shorter on its way."""
    if flags & _NO_BODY:
        # A response to HEAD reports the length that GET would have; 204 and 304 have none.
        return length if x.is_head else -1
    if length >= 0 and not changes:
        return length
    if x.flags & _HTTP_10:
        x.to_close = True
        return -1
    x.chunked = True
    return -2


def hold(x: Exchange, status: int, context: bool) -> None:
    """Decide what the head of an incomplete response waits for. `context`: a 400 may be one for a fallback."""
    if 200 <= status < 300:
        if x.head.method == "POST" and is_inference(x.head.path):
            x.hold = HOLD_EVENT if x.sse else HOLD_DOCUMENT
    elif status == 400 and context:
        x.hold = HOLD_DOCUMENT


def judge(x: Exchange, complete: bool, limit: int) -> int:
    """Check what is held so far; beyond `limit` bytes the response passes."""
    if x.hold == HOLD_DOCUMENT:
        if complete:
            judgement = judge_document(x, x.status, _text(x))
            if judgement == PASS and x.answer_lines is not None:
                # Translated before its head leaves: when that fails, another upstream may be asked.
                x.waiting = [*(x.waiting or ()), x.pump.finish()]
            return judgement
        return WAIT if x.waiting_bytes <= limit else PASS
    seen: int = x.pump.seen
    if seen & _SEEN_ERROR_FIRST:
        return _lie(x, _text(x), "began its stream with an error")
    if seen & _SEEN_OTHER_FIRST:
        return _fail(
            x,
            UpstreamError(f"upstream {x.target.label} began its stream with something other than an event of its API"),
        )
    if complete and not seen & _SEEN_EVENT:
        return _fail(x, UpstreamError(f"upstream {x.target.label} answered with an empty stream"))
    x.has_terminator = True
    if complete and seen & _SEEN_PROMISE and not seen & (_SEEN_END | _SEEN_ERROR):
        return _fail(x, UpstreamProtocolError(f"upstream {x.target.label} ended its stream too early"))
    return PASS if seen & _SEEN_EVENT or x.waiting_bytes > limit else WAIT


def has_spoken(x: Exchange) -> bool:
    """Return whether a stream has brought its first token: text, reasoning, a tool call."""
    seen: int = x.pump.seen
    return (seen & _SEEN_CONTENT) != 0


def judge_document(x: Exchange, status: int, body: bytes) -> int:
    """Check a whole document: a 200 that is empty or an error is not an answer."""
    if status == 400:
        return CONTEXT if is_context_error(body) else PASS
    if status != 200 or x.head.method != "POST" or not is_inference(x.head.path):
        return PASS
    if not body.strip():
        return _fail(x, UpstreamError(f"upstream {x.target.label} sent an empty response"))
    return _lie(x, body, "answered 200 with an error") if body.startswith(ERROR_BODIES) else PASS


def judge_end(x: Exchange) -> int:
    """Check a stream at its end: it must have sent its terminator, if its API has one. A stream that reported an error
    is passed on as it came, and counts as truncated."""
    seen: int = x.pump.seen
    if seen & _SEEN_ERROR:
        x.error = UpstreamError.code
    elif seen & _SEEN_PROMISE and not seen & _SEEN_END:
        return _fail(x, UpstreamProtocolError(f"upstream {x.target.label} ended its stream too early"))
    return PASS


def _text(x: Exchange) -> bytes:
    """Return the body bytes held so far, without the framing that they would leave with; of a translated body, what the
    upstream sent."""
    if x.answer_lines is not None:
        text: bytes = x.pump.text
        return text
    held = b"".join(x.waiting or ())
    return unchunk(held) if x.chunked else held


def _lie(x: Exchange, text: bytes, what: str) -> int:
    """Fail the response for an error under a 200, unless the error says that the request was wrong: the client then
    gets it in the upstream's words."""
    status, message = told_error(text)
    if status < 500 and status != 429:
        return PASS
    if message and x.target.redactor is not None:
        message = x.target.redactor.blot(message.encode()).decode("utf-8", "replace")
    what = f"upstream {x.target.label} {what}"
    return _fail(x, UpstreamError(f"{what}: {message}" if message else what))


def _fail(x: Exchange, error: GatewayError) -> int:
    x.doubt = error
    return FAIL
