cimport cython

from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.wire.chunked_cy cimport unchunk

cdef int _HTTP_10, _JSON, _EVENT_STREAM, _ENCODED, _NO_BODY
cdef int _SEEN_EVENT, _SEEN_ERROR_FIRST, _SEEN_OTHER_FIRST, _SEEN_END, _SEEN_ERROR, _SEEN_PROMISE, _SEEN_CONTENT

cpdef int verdict_of(int status) except -1
@cython.locals(since_ns=cython.longlong, total_ns=cython.longlong)
cpdef int verdict_of_delay(Exchange x, long long now_ns) except -1
cpdef int scan_of(int flags) except -1
cpdef Py_ssize_t frame(Exchange x, int flags, Py_ssize_t length, bint changes) except? -9
cpdef hold(Exchange x, int status, bint context)
@cython.locals(seen=cython.int)
cpdef int judge(Exchange x, bint complete, Py_ssize_t limit) except -1
cpdef int judge_document(Exchange x, int status, bytes body) except -1
@cython.locals(seen=cython.int)
cpdef bint has_spoken(Exchange x) except -1
@cython.locals(seen=cython.int)
cpdef int judge_end(Exchange x) except -1
cdef bytes _text(Exchange x)
cdef int _lie(Exchange x, bytes text, str what) except -1
cdef int _fail(Exchange x, error) except -1
