cimport cython

from budgateway.balance.balancer_cy cimport Balancer
from budgateway.exchange_cy cimport Carrier, Exchange
from budgateway.limits.stage_cy cimport Limits
from budgateway.observe.record_cy cimport Recorder
from budgateway.pipeline_cy cimport Snapshot, plan
from budgateway.routing.router_cy cimport Leg, RouteRoom
from budgateway.server.connection_cy cimport ServerConnection
from budgateway.server.websocket_cy cimport SocketCounts, Tunnel
from budgateway.transport.client_cy cimport ClientConnection, Target

cdef Py_ssize_t JOINED_BYTES
cdef long long SUSPECT_NS
cdef int _SCAN_DOCUMENT, _SCAN_EVENTS
cdef int _KEEP_ALIVE, _CHUNKED, _HTTP_10, _JSON, _EVENT_STREAM, _ENCODED, _NO_BODY, _NAMED


cdef class Relay(Carrier):
    # process
    cdef Recorder _recorder
    cdef object _spawn, _next_id, _write_head, _write_whole, _write_switch
    cdef public SocketCounts sockets
    # configuration
    cdef public Snapshot snapshot
    cdef public str shedding
    # now
    cdef public Py_ssize_t in_flight    # exchanges started and not closed

    @cython.locals(route=RouteRoom)
    cdef _plan(self, Exchange x)
    cpdef waited(self, Exchange x, error)
    cdef _crash(self, Exchange x, error)
    cdef _enter(self, Exchange x)
    @cython.locals(target=Target, connection=ClientConnection)
    cpdef execute(self, Exchange x)
    cpdef connected(self, Exchange x, ClientConnection connection)
    cpdef unreachable(self, Exchange x, error)
    @cython.locals(body=bytes, head=bytes, length=Py_ssize_t, target=Target, route=RouteRoom, now_ns=cython.longlong, done=bint)
    cdef _send(self, Exchange x, ClientConnection connection)
    @cython.locals(route=RouteRoom, target=Target, leg=Leg, balancer=Balancer, since_ns=cython.longlong)
    cdef _listen(self, Exchange x, long long now_ns)
    @cython.locals(leg=Leg, balancer=Balancer)
    cdef _rest(self, Exchange x, head, long long now_ns)
    @cython.locals(downstream=ServerConnection, last=bytes, target=Target)
    cpdef received(self, Exchange x, head, bytes out, bint complete, long long now_ns)
    @cython.locals(
        target=Target, downstream=ServerConnection, tunnel=Tunnel, now_ns=cython.longlong, attempts=cython.int, data=bytes,
    )
    cpdef switched(self, Exchange x, connection, head, bytes rest)
    @cython.locals(
        status=cython.int, flags=cython.int, keep_alive=bint, scan=cython.int, rename=bint, length=Py_ssize_t,
        target=Target, disclosure=bytes, attempts=cython.int, data=bytes, downstream=ServerConnection, route=RouteRoom,
        sent_ns=cython.longlong, overhead_us=cython.longlong,
    )
    cdef _answer(self, Exchange x, head, bytes body, bint complete, long long now_ns)
    @cython.locals(route=RouteRoom, now_ns=cython.longlong, leg=Leg, balancer=Balancer)
    cdef _began(self, Exchange x)
    @cython.locals(downstream=ServerConnection, status=cython.int, verdict=cython.int)
    cdef _done(self, Exchange x, long long now_ns)
    cdef _again(self, Exchange x, error)
    cdef _expire(self, Exchange x, phase)
    cdef _give_up(self, Exchange x, error)
    @cython.locals(
        route=RouteRoom, leg=Leg, balancer=Balancer, connection=ClientConnection, target=Target, upstream=str,
        snapshot=Snapshot, limits=Limits,
    )
    cdef _close(self, Exchange x, int outcome, int verdict, long long now_ns)


cdef bytes _chunk(bytes data)
