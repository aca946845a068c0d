from budgateway.exchange.exchange_cy cimport Exchange


cdef class Prepared:
    cdef public object limits           # native.LimitSet
    cdef public object decide           # its method
    cdef public tuple names             # of named.Named, by the set's index
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
    cdef dict _remembered               # (number of the principal's class, model) -> Prepared or None

    cpdef Prepared pick(self, Exchange x)
