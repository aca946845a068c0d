cimport cython

from budgateway.exchange.exchange_cy cimport Exchange


cdef class Passthrough:
    cdef dict _aliases                  # the client's model name -> JSON text for the upstream
    cdef bytes _told                    # JSON text of the one model, or None
    cdef object _provider               # records.Provider
    cdef str _prefix
    cdef bint _asks                     # request usage in streams

    @cython.locals(told=bytes, asking=bytes, edits=list)
    cpdef adapt(self, Exchange x)
    cpdef cached_plan(self, Exchange x)
