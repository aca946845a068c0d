from budgateway.exchange_cy cimport Exchange


cdef class RequestLimits:
    cdef object _take, _refund          # of the gateway-wide native.RateLimit, or None

    cpdef admit(self, Exchange x)
    cpdef reserve(self, Exchange x, take, str name)
