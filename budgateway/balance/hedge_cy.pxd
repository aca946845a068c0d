cimport cython

from budgateway.exchange.exchange_cy cimport Exchange


cdef class Hedging:
    cdef long long _after_ns
    cdef int _percentile
    cdef object _streams, _wholes       # native.LatencyHistogram

    @cython.locals(usual_ns=cython.longlong)
    cpdef long long delay_ns(self, Exchange x) except? -2
    cpdef heard(self, Exchange x, long long ns)
    cdef _latencies(self, Exchange x)
