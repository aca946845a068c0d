"""Records of traced exchanges: what the native core writes is what is read."""

from __future__ import annotations

from array import array

from budgateway.exchange.timing import stages
from budgateway.native import Ledger, RequestHead, Segment, Tracer
from budgateway.observe.trace_record import FELL_BACK, QUEUED, READY, WAITED, records

HEAD = (
    b"POST /v1/chat/completions?key=x HTTP/1.1\r\nhost: a:8080\r\nuser-agent: t/1\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n"
)


class Who:
    """A principal."""

    id = "jwt:own:ada"
    tenant = "t"


def test_a_record_is_read_as_it_was_written() -> None:
    segment = Segment(1)
    row = array("q", bytes(8 * len(Ledger.CELLS)))
    ledger = Ledger(segment, row, epoch_ns=1_000)
    tracer = Tracer(
        segment, (1, 2), ratio=0, parent="follow", keep_errors=True, keep_slower_than_ns=0, max_per_second=10,
        keeps_all=False, propagates=True,
    )  # fmt: skip
    ledger.follow(tracer)
    head = RequestHead.parse(HEAD)
    assert head is not None
    trace = tracer.decide(head)
    assert trace is not None
    assert trace.trace_id == "0af7651916cd43dd8448eb211c80319c"
    for kind, at_ns in ((READY, 10), (QUEUED, 20), (WAITED, 30), (FELL_BACK, 35)):
        trace.note(kind, at_ns)
    first = trace.begin("p/0", 40, False)
    trace.sent(first, 50)
    trace.failed(first, 60, 503, 4)
    trace.failed(first, 70, 200, 1)  # only the first call counts
    second = trace.begin("p/1", 65, True)
    trace.sent(second, 66)
    numbers = {
        "route": segment.intern("r"), "provider": segment.intern("p"), "status": 200, "attempts": 2, "is_stream": 1,
        "is_asked": 1, "bytes_in": 7, "bytes_out": 9, "started_ns": 5, "first_ns": 80, "ended_ns": 100, "overhead_ns": 3,
    }  # fmt: skip
    for name, number in numbers.items():
        row[Ledger.CELLS.index(name)] = number
    answer = b'{"usage":{"prompt_tokens":10,"completion_tokens":20}}'
    ledger.record(
        head, answer, None, None, Who(), request_id="id", client="::1", model="m", upstream="p/1", error="", trace=trace
    )
    block, kept, dropped = tracer.drain()
    assert (kept, dropped) == (1, 0)
    (r,) = records(block)
    assert (r.trace_id, r.parent) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    assert (r.epoch_ns, r.started_ns, r.first_ns, r.ended_ns, r.overhead_ns) == (1_000, 5, 80, 100, 3)
    assert (r.route, r.provider, r.model, r.upstream, r.method, r.path) == (
        "r",
        "p",
        "m",
        "p/1",
        "POST",
        "/v1/chat/completions",
    )
    assert (r.host, r.user_agent, r.request_id, r.client, r.principal, r.tenant) == (
        "a",
        "t/1",
        "id",
        "::1",
        "jwt:own:ada",
        "t",
    )
    assert (r.status, r.outcome, r.sampled_by, r.is_stream, r.cost_micros) == (200, "complete", "parent", True, None)
    assert (r.tokens_in, r.tokens_out, r.bytes_in, r.bytes_out) == (10, 20, 7, 9)
    assert r.notes == ((READY, 10), (QUEUED, 20), (WAITED, 30), (FELL_BACK, 35))
    one, two = r.attempts
    assert one[1:] == (40, 50, 60, 503, "pressure", False, "p/0")
    assert two[1:] == (65, 66, 0, 0, "", True, "p/1")
    assert len({one.span, two.span, r.server, r.call}) == 4


def test_stages_add_up_to_the_duration() -> None:
    notes = [(READY, 10), (QUEUED, 20), (WAITED, 50)]
    found = stages(notes, (60, 75), 4, 200, 230)
    assert found == {"read": 6, "plan": 20, "queue": 30, "connect": 15, "upstream": 125, "hold": 30}
    assert sum(found.values()) == 230 - 4
    assert stages([], (0, 0), 4, 9, 9) == {"read": 0, "plan": 5, "queue": 0, "connect": 0, "upstream": 0, "hold": 0}
