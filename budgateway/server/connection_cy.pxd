cimport cython

from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.exchange.handler_cy cimport ExchangeHandler
from budgateway.server.state_cy cimport ServerState
from budgateway.server.framing_cy cimport RequestFraming

cdef int _KEEP_ALIVE, _CHUNKED, _EXPECT_CONTINUE, _JSON, _MULTIPART, _ENCODED, _H
cdef Py_ssize_t _SIZE, _FLAGS, _LENGTH, _DIALECT, _READ_NS
cdef int _HEAD, _BODY, _ANSWERING, _LINGERING, _CLOSED


cdef class ServerConnection:
    # process
    cdef ServerState _server_state
    cdef ExchangeHandler _handler
    # connection
    cdef readonly object _transport     # read by the listeners
    cdef RequestFraming _framing
    cdef object _write                  # the transport's `write`, bound once
    cdef object _arm                    # the transport's `arm`, when a fast path sees requests first
    cdef public int place
    cdef public str client
    cdef int _state
    cdef long long _deadline_ns, _flush_ns
    cdef bytearray _pending
    cdef Py_ssize_t _fed
    cdef bint _reading
    cdef public bint writable
    cdef public bint fast_eligible      # the plan of the exchange in flight is cached for the fast path
    # exchange
    cdef Exchange _exchange
    cdef list _parts
    cdef bint _started
    cdef Py_ssize_t _left, _length, _max_body
    cdef object _chunks, _unpacking     # _unpacking: server.unpacking.Unpacking, of a form or an encoded body

    cpdef data_received(self, bytes data)
    cdef _read_head(self, bytes data)
    cdef _parse_early(self, bytes piece)
    @cython.locals(
        server_state=ServerState, flags=cython.int, size=Py_ssize_t, length=Py_ssize_t, have=Py_ssize_t, fed=Py_ssize_t, end=Py_ssize_t,
        x=Exchange, framing=RequestFraming, raw="const char *",
    )
    cdef _begin(self, head, bytes data)
    cdef Exchange _exchange_of(self, head, long long started_ns)
    cdef _read_body(self, bytes data)
    cdef _took(self, Exchange x, bytes data)
    cdef _body_grew(self, Exchange x)
    cdef _request_done(self, Exchange x)
    @cython.locals(x=Exchange)
    cdef bint _parse(self, piece) except -1
    cdef _hold(self, bytes data)
    cpdef write(self, bytes data)
    cpdef limit_body(self, Exchange x, Py_ssize_t limit)
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    cpdef finish(self, bint keep_alive)
    cpdef close(self)
    cpdef Exchange adopt(self, head, bytes data, long long started_ns)
    cpdef surrender(self)
    @cython.locals(x=Exchange)
    cpdef abort(self)
    cpdef reset(self)
    cpdef break_off(self, bint framed)
    cpdef refuse(self, error)
    cpdef sweep(self, long long now_ns)
    cpdef hasten(self, long long deadline_ns)
    cpdef end(self, error)
    cdef _go_on(self)
    cpdef _next(self)
    cdef _look_out(self)
    cdef bint _is_full(self) except -1
    cdef _fail(self, Exchange x, error)
    cdef _too_large(self)
    cdef _linger(self)
