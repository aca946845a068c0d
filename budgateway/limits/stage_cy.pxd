cimport cython

from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.limits.prepared_cy cimport Prepared, RouteLimits


cdef class Limits:
    cdef readonly object waiting        # native.WaitingCount, or None
    cdef object _book, _waiting         # rules.Rulebook; lease_queue.LeaseQueue or None
    cdef object _global_limits          # global_limits.GlobalLimits or None
    cdef RouteLimits _unrouted, _preflights
    cdef public dict own                # own path -> RouteLimits
    cdef dict _prices                   # provider -> model -> native.Price or None
    cdef bint _priced, _has_leases
    cdef public object today

    @cython.locals(prepared=Prepared)
    cpdef decide(self, Exchange x, RouteLimits configured)
    @cython.locals(key=str, tenant=str)
    cpdef take(self, Exchange x, Prepared prepared, long long now_ns)
    @cython.locals(key=str, tenant=str)
    cpdef follow(self, Exchange x, Prepared prepared, long long now_ns)
    @cython.locals(configured=RouteLimits)
    cpdef unrouted(self, Exchange x)
    cpdef preflight(self, Exchange x)
    @cython.locals(prepared=Prepared)
    cdef _count(self, Exchange x, RouteLimits configured)
    @cython.locals(known=dict)
    cpdef price(self, Exchange x)
    @cython.locals(prepared=Prepared, configured=RouteLimits)
    cpdef cached_plan(self, Exchange x)
    cpdef released(self)
