from budgateway.exchange_cy cimport Carrier, Exchange
from budgateway.server.door_cy cimport Door

cdef int _GOING_AWAY, _INTERNAL


cdef class SocketCounts:
    cdef public long long open, frames_in, frames_out, bytes_in, bytes_out


cdef class Tunnel:
    # process
    cdef Carrier _carrier
    cdef Door _door
    cdef SocketCounts _counts
    # exchange
    cdef Exchange _x
    cdef End _down, _up
    cdef long long _idle_ns, _idle_at_ns, _deadline_ns, _flush_ns
    cdef double _idle_s
    cdef public bint active
    cdef bint _over

    cpdef open(self, client, upstream, bytes head, bytes rest, bytes early)
    cdef closed(self, End end)
    cdef violated(self, End end, int code, str why)
    cdef lost(self, End end)
    cpdef sweep(self, long long now_ns)
    cpdef hasten(self, long long deadline_ns)
    cpdef end(self, error)
    cpdef abort(self)
    cdef _expire(self, long long now_ns)
    cdef _leave_both(self, int code, str why, str error)
    cdef _part(self, int outcome, int verdict, str error)
    cdef _count(self)


cdef class End:
    cdef Tunnel _tunnel
    cdef object _scanner, _feed             # native.FrameScanner of what the peer sends
    cdef object _transport, _write
    cdef long long _slow_since_ns
    cdef bint is_client
    cdef End other
    cdef bint said_close, told_close, _ending
    cdef Py_ssize_t passed, uncounted
    cdef long long _frames

    cdef take(self, transport)
    cpdef data_received(self, bytes data)
    cdef hold(self, bint back)
    cdef say_close(self, int code, str reason)
    cdef leave(self)
    cdef drop(self)
    cdef bint has_unsent(self) except -1
    cdef bint is_gone(self) except -1
    cdef bint is_stuck(self, long long now_ns, long long patience_ns) except -1
    cdef long long new_frames(self) except? -1
