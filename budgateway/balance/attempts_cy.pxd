cimport cython

from budgateway.balance.balancer_cy cimport Balancer
from budgateway.balance.hedge_cy cimport Hedging
from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.exchange.response_check_cy cimport verdict_of

cdef int _STALE


cdef class Attempts:
    cdef public object rules            # records.Retries
    cdef public int max_attempts        # on each destination
    cdef public object statuses, fallback_on
    cdef tuple _fallbacks               # of routing.router_cy.Destination
    cdef public bint minds_context
    cdef public Hedging hedging         # or None
    cdef long long _max_wait_ns

    @cython.locals(balancer=Balancer)
    cpdef long long next(self, Exchange x, int verdict, int reason, long long wait_ns, long long now_ns) except? -2
    @cython.locals(balancer=Balancer, h=Exchange)
    cpdef Exchange hedge(self, Exchange x, long long now_ns)
    @cython.locals(status=cython.int, reason=cython.int)
    cpdef long long better(self, Exchange x, head, long long now_ns) except? -2
    @cython.locals(balancer=Balancer, former=Balancer, index=cython.int, note=cython.longlong, tried=cython.ulonglong)
    cpdef bint fall_back(self, Exchange x, int verdict, int reason, long long now_ns) except -1
    cdef bint _adapts(self, Exchange x, destination) except -1
    cpdef bint falls_on(self, error) except -1
    cpdef long long deadline(self, Exchange x, long long now_ns) except? -2
    @cython.locals(balancer=Balancer, bits=cython.ulonglong)
    cdef bint _has_other(self, Exchange x) except -1
    cdef bint _falls(self, int reason) except -1
    cdef long long _backoff(self, Exchange x) except? -2
    @cython.locals(one=cython.longlong)
    cdef _count(self, Exchange x, int reason)
