cimport cython

from budgateway.exchange.exchange_cy cimport Exchange


cdef class Prepared:
    cdef public object limits           # native.LimitSet
    cdef public object decide           # its method
    cdef public tuple names             # of rules.Named, by the set's index
    cdef public bint spends             # a price is needed
    cdef public str route
    cdef public bint is_shared          # global limits
    cdef public Prepared alone          # applies while the store of global limits is down; None: the same limits
    cdef public object lease            # the first of the names that limits concurrency, or None


cdef class RouteLimits:
    cdef object _book                   # rules.Rulebook
    cdef public str route
    cdef public bint is_own             # one of the gateway's own paths
    cdef bint _by_model, _is_shared
    cdef Prepared _common
    cdef dict _remembered               # (id of principal, model) -> (principal, Prepared)

    cpdef Prepared pick(self, Exchange x)


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
