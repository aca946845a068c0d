cimport cython

from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.exchange.response_check_cy cimport scan_of

cdef int _CHUNKED


cdef class Passthrough:
    cdef public bint translates         # the upstream speaks another dialect than the client
    cdef dict _aliases                  # the client's model name -> JSON text for the upstream
    cdef bytes _told                    # JSON text of the one model, or None
    cdef public object provider         # records.Provider
    cdef str _prefix
    cdef bint _has_patterns             # some alias is a pattern
    cdef tuple _asks                    # by dialect: request usage in streams

    @cython.locals(told=bytes, asking=bytes, edits=list)
    cpdef request(self, Exchange x)
    cpdef bint alters(self, Exchange x) except -1
    @cython.locals(flags=cython.int, scan=cython.int, is_good=cython.bint, keeps_usage=cython.bint)
    cpdef body(self, Exchange x, head)
    cpdef bytes document(self, Exchange x, head)
    cpdef bytes error(self, Exchange x, error)
    cdef bytes _upstream_name(self, str model)
    cpdef cached_plan(self, Exchange x)
