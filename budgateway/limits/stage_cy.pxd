cimport cython

from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.limits.prepared_cy cimport Prepared, RouteLimits


cdef class Limits:
    cdef object _book, _waiting         # rules.Rulebook; waiting.WaitingRoom or None
    cdef object _across                 # across.Across or None
    cdef RouteLimits _strays, _preflights
    cdef public dict own                # own path -> RouteLimits
    cdef dict _prices                   # provider -> model -> native.Price or None
    cdef bint _priced, _has_leases
    cdef public object today

    @cython.locals(prepared=Prepared)
    cpdef decide(self, Exchange x, RouteLimits room)
    @cython.locals(key=str, tenant=str)
    cpdef take(self, Exchange x, Prepared prepared, long long now_ns)
    @cython.locals(key=str, tenant=str)
    cpdef follow(self, Exchange x, Prepared prepared, long long now_ns)
    @cython.locals(room=RouteLimits)
    cpdef stray(self, Exchange x)
    cpdef preflight(self, Exchange x)
    @cython.locals(prepared=Prepared)
    cdef _count(self, Exchange x, RouteLimits room)
    @cython.locals(known=dict)
    cpdef price(self, Exchange x)
    @cython.locals(prepared=Prepared, room=RouteLimits)
    cpdef cached_plan(self, Exchange x)
    cpdef released(self)
