cimport cython

from budgateway.exchange.exchange_cy cimport Exchange

cdef int _UPGRADE, _JSON, _ENCODED, _TARGET_MODEL


cdef class Destination:
    cdef public tuple adapters          # by the client's dialect: providers.passthrough_cy.Passthrough
    cdef public object balancer         # balance.balancer_cy.Balancer
    cdef public str provider
    cdef public int label               # of the provider
    cdef public object budget           # native.RetryBudget, or None
    cdef public Py_ssize_t hold_bytes
    cdef public long long first_event_ns  # 0: half of the time left
    cdef public object transforms       # transform.stages.ProviderTransforms, or None


cdef class CompiledRoute:
    cdef public object record           # records.Route
    cdef public str name, access
    cdef public int label
    cdef public object limits           # limits.stage_cy.RouteLimits
    cdef public tuple destinations, fallbacks  # of Destination
    cdef public object shape            # routing.shape.Shape, or None
    cdef public object mirror           # balance.mirror.Mirroring, or None
    cdef public object attempts         # balance.attempts_cy.Attempts
    cdef public tuple stages            # between limits and the choice of an upstream
    cdef public object cors             # wire.cors.CrossOrigin, or None
    cdef public object transforms       # transform.stages.RouteTransforms, or None
    cdef public Py_ssize_t place
    cdef public Py_ssize_t max_body_bytes
    cdef public long long first_byte_ns, chunk_ns, total_ns, comment_ns

    cpdef bint is_cacheable(self) except -1
    cpdef bint may_replay(self, Exchange x) except -1


cdef class Router:
    cdef public tuple compiled_routes   # of CompiledRoute, by the table's index
    cdef public object table            # native.RouteTable
    cdef object _find, _peek
    cdef dict _configured, _model_labels
    cdef Py_ssize_t _default_limit

    cpdef learn(self, listed)
    @cython.locals(model=str, body=bytes, flags=cython.int, hides=cython.bint, index=Py_ssize_t, compiled=CompiledRoute)
    cpdef match(self, Exchange x)
    @cython.locals(compiled=CompiledRoute, destination=Destination)
    cpdef cached_plan(self, Exchange x)
    @cython.locals(index=Py_ssize_t, compiled=CompiledRoute)
    cdef _asked_model(self, Exchange x)
    @cython.locals(compiled=CompiledRoute)
    cpdef name_late(self, Exchange x, str model)
    cdef _nothing(self, Exchange x, int why)
