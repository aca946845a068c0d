from budgateway.exchange.exchange_cy cimport Exchange


cdef class ExchangeHandler:
    # the client's connection
    cpdef start(self, Exchange x)
    cpdef body(self, Exchange x, bytes data)
    cpdef body_end(self, Exchange x)
    cpdef gone(self, Exchange x)
    cpdef writable(self, Exchange x, bint ok)
    cpdef sweep(self, Exchange x, long long now_ns)
    cpdef fail(self, Exchange x, error)
    cpdef refuse_malformed(self, connection, error, bytes data, int dialect)
    # the upstream's connection
    cpdef response(self, Exchange x, head, long long now_ns)
    cpdef response_head(self, Exchange x, head, long long now_ns)
    cpdef response_data(self, Exchange x, bytes out)
    cpdef response_flush(self, Exchange x)
    cpdef response_end(self, Exchange x, bytes out, long long now_ns)
    cpdef lost(self, Exchange x, error)
    cpdef upstream_writable(self, Exchange x, bint ok)
    cpdef switched(self, Exchange x, connection, head, bytes rest)
    cpdef socket_ended(self, Exchange x, int outcome, int verdict, long long now_ns)
    # either
    cpdef crashed(self, Exchange x, error)
