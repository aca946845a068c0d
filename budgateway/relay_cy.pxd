from budgateway.exchange_cy cimport Exchange

cdef int _KEEP_ALIVE, _HTTP_10, _EVENT_STREAM, _JSON_OR_EVENTS, _ENCODED, _NO_BODY


cdef class Relay:
    # process
    cdef object _recorder, _spawn, _writer
    cdef str _id_prefix
    cdef bint _disclose
    cdef long long _counter
    # configuration
    cdef public object snapshot
    # now
    cdef public Py_ssize_t in_flight    # exchanges started and not closed

    cpdef start(self, Exchange x)
    cpdef body(self, Exchange x, bytes data)
    cpdef body_end(self, Exchange x)
    cpdef gone(self, Exchange x)
    cpdef writable(self, Exchange x, bint ok)
    cpdef fail(self, Exchange x, error)
    cpdef sweep(self, Exchange x, long long now_ns)
    cpdef execute(self, Exchange x)
    cpdef connected(self, Exchange x, connection)
    cpdef unreachable(self, Exchange x, error)
    cdef _send(self, Exchange x, connection)
    cpdef received(self, Exchange x, head, bytes payload, bint complete)
    cpdef lost(self, Exchange x, error)
    cpdef upstream_writable(self, Exchange x, bint ok)
    cdef _answer(self, Exchange x, head, bytes payload, bint complete)
    cdef _finish_body(self, Exchange x)
    cdef _done(self, Exchange x, long long answered_ns)
    cdef _again(self, Exchange x, error)
    cdef _expire(self, Exchange x, phase)
    cdef _give_up(self, Exchange x, error)
    cdef _close(self, Exchange x, int outcome, int verdict)


cdef bytes _chunk(bytes data)
