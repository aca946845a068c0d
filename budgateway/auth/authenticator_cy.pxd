from budgateway.exchange_cy cimport Exchange


cdef class Authenticator:
    cpdef identify(self, Exchange x)
    cpdef authorize(self, Exchange x, str access)


cdef class TokenAuthenticator(Authenticator):
    cdef object _decode, _invalid, _secret
    cdef dict _remembered               # header value -> (Principal, expiry)

    cdef _verify(self, str given)
