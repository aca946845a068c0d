cimport cython

from budgateway.balance.attempts_cy cimport Attempts
from budgateway.balance.balancer_cy cimport Balancer
from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.exchange.handler_cy cimport ExchangeHandler
from budgateway.exchange.response_check_cy cimport (
    frame, has_spoken, hold, judge, judge_document, judge_end, scan_of, verdict_of, verdict_of_delay,
)
from budgateway.limits.stage_cy cimport Limits
from budgateway.observe.record_cy cimport Recorder
from budgateway.proxy.attempt_cy cimport AttemptSender
from budgateway.providers.passthrough_cy cimport Passthrough
from budgateway.proxy.pipeline_cy cimport Snapshot, plan
from budgateway.routing.router_cy cimport Destination, CompiledRoute
from budgateway.server.connection_cy cimport ServerConnection
from budgateway.transport.client_cy cimport ClientConnection, Target
from budgateway.wire.chunked_cy cimport chunk

cdef int _SCAN_DOCUMENT, _SCAN_EVENTS
cdef int _PASS, _WAIT, _CONTEXT
cdef long long SUSPECT_NS
cdef int _READY, _WAITED, _FELL_BACK
cdef int _KEEP_ALIVE, _NO_BODY, _NAMED, _DOUBTFUL, _ASKING, _LOCATED


cdef class Relay(ExchangeHandler):
    # process
    cdef Recorder _recorder
    cdef object _spawn
    cdef public AttemptSender sender
    cdef object _next_id, _write_head, _write_whole, _write_translated, _write_switch
    cdef public object ids              # native.RequestIds
    cdef public object fast_in_flight
    cdef public object fastpath         # fastpath.FastPath, the fast path; None: off
    cdef public object sockets          # server.websocket.SocketCounts
    # configuration
    cdef public Snapshot snapshot
    cdef object _tracer                 # native.Tracer; None: nothing is traced
    cdef bint _times, _explains
    cdef public str shedding
    cdef public Py_ssize_t spread_above
    # now
    cdef public Py_ssize_t in_flight    # exchanges started and not closed

    @cython.locals(route=CompiledRoute)
    cdef _plan(self, Exchange x)
    @cython.locals(
        now_ns=cython.longlong, flags=cython.int, length=Py_ssize_t, whole=bint, data=bytes,
    )
    cdef _reply(self, Exchange x, reply)
    @cython.locals(downstream=ServerConnection)
    cdef _pour(self, Exchange x)
    @cython.locals(snapshot=Snapshot, limits=Limits)
    cdef _answer_options(self, Exchange x)
    cpdef waited(self, Exchange x, error)
    cpdef crashed(self, Exchange x, error)
    cdef _enter(self, Exchange x)
    @cython.locals(target=Target)
    cpdef response(self, Exchange x, head, long long now_ns)
    @cython.locals(target=Target)
    cpdef response_head(self, Exchange x, head, long long now_ns)
    cpdef response_data(self, Exchange x, bytes out)
    cpdef response_flush(self, Exchange x)
    @cython.locals(target=Target, last=bytes)
    cpdef response_end(self, Exchange x, bytes out, long long now_ns)
    cdef _keep(self, Exchange x, bytes out)
    @cython.locals(destination=Destination)
    cdef bint _may_leave(self, Exchange x, bint complete) except -1
    @cython.locals(
        target=Target, downstream=ServerConnection, now_ns=cython.longlong, attempts=cython.int, data=bytes,
    )
    cpdef switched(self, Exchange x, connection, head, bytes rest)
    @cython.locals(
        status=cython.int, flags=cython.int, keep_alive=bint, scan=cython.int, length=Py_ssize_t, adapter=Passthrough,
        target=Target, disclosure=bytes, attempts=Attempts, destination=Destination, count=cython.int, data=bytes, body=bytes,
        route=CompiledRoute, sent_ns=cython.longlong, overhead_us=cython.longlong, doubtful=bint,
    )
    cdef _answer(self, Exchange x, head, bint complete, long long now_ns)
    @cython.locals(route=CompiledRoute, now_ns=cython.longlong, destination=Destination, balancer=Balancer)
    cdef _began(self, Exchange x)
    @cython.locals(downstream=ServerConnection)
    cdef _to_client(self, Exchange x, bytes data)
    @cython.locals(downstream=ServerConnection)
    cdef _done(self, Exchange x, long long now_ns)
    @cython.locals(may=bint)
    cdef bint _is_held(self, Exchange x, int judgement) except -1
    @cython.locals(out=bytes)
    cdef bytes _let_go(self, Exchange x)
    @cython.locals(downstream=ServerConnection, deadline_ns=cython.longlong)
    cdef _comment(self, Exchange x, long long now_ns)
    cdef _answer_stream(self, Exchange x, head, long long now_ns)
    @cython.locals(route=CompiledRoute, target=Target, destination=Destination, balancer=Balancer, since_ns=cython.longlong)
    cdef _suspect(self, Exchange x, long long now_ns)
    @cython.locals(destination=Destination, balancer=Balancer)
    cdef _pause(self, Exchange x, head, long long now_ns)
    @cython.locals(attempts=Attempts, delay_ns=cython.longlong)
    cdef bint _is_turned_away(self, Exchange x, head, bint complete, long long now_ns) except -1
    @cython.locals(attempts=Attempts)
    cdef _refuse(self, Exchange x, error)
    @cython.locals(now_ns=cython.longlong, early=bint, hasty=bint)
    cdef _expire(self, Exchange x, phase)
    @cython.locals(snapshot=Snapshot, lines=bytes, body=bytes, adapter=Passthrough)
    cpdef give_up(self, Exchange x, error)
    @cython.locals(downstream=ServerConnection)
    cdef _tell(self, Exchange x, bytes data, int outcome, int verdict)
    @cython.locals(destination=Destination, balancer=Balancer, connection=ClientConnection)
    cdef _close(self, Exchange x, int outcome, int verdict, long long now_ns)
    @cython.locals(route=CompiledRoute, destination=Destination, target=Target, upstream=str, snapshot=Snapshot, limits=Limits)
    cdef _settle(self, Exchange x, int outcome, long long now_ns)
