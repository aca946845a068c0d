from budgateway.exchange_cy cimport Exchange


cdef class RequestLimits:
    cdef object _overall                # native.RateLimit, or None

    cpdef admit(self, Exchange x)
    cpdef reserve(self, Exchange x, limit, str name)
