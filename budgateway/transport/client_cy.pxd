cimport cython

from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.exchange.handler_cy cimport ExchangeHandler
from budgateway.wire.framing_cy cimport Framing

cdef Py_ssize_t _SIZE, _FLAGS, _LENGTH, _STATUS, _READ_NS
cdef int _KEEP_ALIVE, _CHUNKED, _NO_BODY
cdef int _BY_LENGTH, _BY_CHUNKS, _BY_CLOSE


cdef class Pool:
    cdef public object idle             # native.Idle of ClientConnection: last in, first out
    cdef public set open                # all connections, idle or busy
    cdef public object read_head        # `response` of the native.HeadReader that writes into `facts`
    cdef public long long last_heard_ns  # last time bytes came from the upstream; the sweep adds the fast path's
    cdef long long[::1] facts
    cdef bytearray buffer

    @cython.locals(connection=ClientConnection)
    cpdef checkout(self, long long now_ns)
    cpdef put(self, ClientConnection connection)
    cpdef forget(self, ClientConnection connection)
    cpdef sweep(self, long long now_ns)
    cpdef close(self)
    cpdef Py_ssize_t idle_count(self) except -1


cdef class Target:
    cdef public object upstream         # records.Upstream
    cdef public str label
    cdef public Pool pool
    cdef public object writer           # native.RequestHeadWriter
    cdef public object write_head       # `write` of its native.RequestHeadWriter
    cdef public object write_whole, relocate
    cdef public object redactor         # native.Redactor, or None when it has no secrets
    cdef public bytes disclosure        # header lines that name it in responses, each with its CRLF
    cdef public object dialler          # transport.dial.Dialler


cdef class ClientConnection:
    # process
    cdef Pool _pool
    cdef ExchangeHandler _handler
    # connection
    cdef object _transport
    cdef public object plain            # the transport if it is a native.Transport, else None
    cdef Framing _framing
    cdef object _feed, _write           # methods of llhttp and the transport, bound once
    cdef public long long idle_since_ns
    cdef bint _reading, _ended
    cdef public bint writable           # the write buffer has room for more of a streamed body
    # exchange
    cdef Exchange _exchange
    cdef bytearray _pending             # an incomplete head
    cdef bint _is_head, _sent_all, _keep
    cdef bint _begun                    # the response's head was reported; its body follows
    cdef object _pump                   # native.BodyPump for that body
    cdef int _interim, _framed
    cdef Py_ssize_t _left               # body bytes still to come (content-length framing)

    cpdef send(self, Exchange x, bytes head, bytes body, bint is_head, bint last)
    cpdef adopt(self, Exchange x)
    cpdef send_more(self, bytes data, bint last)
    cpdef pause_reading(self)
    cpdef resume_reading(self)
    cpdef abort(self)
    cpdef rebind(self, Exchange x)
    cpdef surrender(self)
    cpdef bint is_usable(self) except -1
    @cython.locals(raw="char *")
    cpdef buffer_updated(self, Py_ssize_t size)
    cdef _read(self, bytes data)
    cdef _report_end(self, Exchange x, error)
    cdef _report_room(self, bint ok)
    cdef _fail(self, Exchange x, error)
    @cython.locals(pool=Pool)
    cdef _read_head(self, Exchange x, bytes data)
    cdef _switch(self, Exchange x, head, bytes data)
    @cython.locals(
        pool=Pool, framing=Framing, flags=cython.int, size=Py_ssize_t, length=Py_ssize_t, have=Py_ssize_t, end=Py_ssize_t
    )
    cdef _begin(self, Exchange x, head, bytes data)
    cdef _read_body(self, Exchange x, bytes data)
    cdef bint _parse(self, Exchange x, piece, bytes out) except -1
    @cython.locals(framing=Framing, now_ns=cython.longlong)
    cdef _deliver(self, Exchange x, head, bytes out, Py_ssize_t end, Py_ssize_t have)
    cdef _broken(self, Exchange x, str why, bytes out)
