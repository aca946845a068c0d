from budgateway.exchange.handler_cy cimport ExchangeHandler


cdef class ServerState:
    # process
    cdef public ExchangeHandler handler
    cdef public object call_soon
    cdef public object proxies          # server.proxies.Proxies; None: no proxy is trusted
    cdef public object networks         # server.address.Networks
    cdef public object fastpath         # native.FastPath, the fast path; None: off
    cdef public object departures       # server.departures.Departures
    cdef public long long keepalive_ns, head_timeout_ns
    cdef public Py_ssize_t max_body_bytes, max_connections, refused_connections
    cdef public object connection_count  # server.state_cy.ConnectionCount of all workers; None: count only this one's
    cdef public Py_ssize_t most_here, most_told, admitted, told
    cdef public bytes full_lines
    cdef bytes _full
    cdef long long _full_at
    cdef public set connections
    cdef public long long now_ns
    cdef public bint draining
    cdef public object read_head        # `request` of the native.HeadReader that writes into `facts`
    cdef public object dialect_of       # `dialect` of the same reader
    cdef public object dialect_in       # `dialect_in` of the same reader
    cdef long long[::1] facts

    cpdef int admit(self) except -1
    cpdef bint lets_in(self, connection) except -1
    cpdef leave(self, connection)
    cpdef bint accepts(self) except -1
    cdef bint _has_place(self) except -1
    cpdef sweep(self, long long now_ns)
