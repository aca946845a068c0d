cimport cython

from budgateway.exchange.exchange_cy cimport Exchange


cdef int _FULL
cdef int _INDEX


cdef class Balancer:
    cdef public object selector         # native.Selector
    cdef public tuple targets           # of transport.client_cy.Target
    cdef object _pick, _release, _answered
    cdef bint _asks                     # the selector must see each request: for its pin, or for its policy
    cdef bint _observes                 # the policy observes outcomes
    cdef str _provider
    cdef dict _lacking                  # model -> mask of upstreams that do not list it
    cdef long long _models_version
    cdef bint _filters
    cdef bint _is_tcp                   # all upstreams use plain TCP
    cdef object _told
    cdef object _queue                  # balance.queue.Queue, where upstreams have limits

    cpdef next(self, Exchange x)
    cpdef bint another(self, Exchange x, int verdict, long long now_ns) except -1
    @cython.locals(index=cython.int, note=cython.longlong)
    cpdef bint same(self, Exchange x, int verdict, long long now_ns) except -1
    cpdef spread(self, Exchange x, Py_ssize_t share, long long now_ns)
    cpdef release(self, Exchange x, int verdict, long long now_ns)
    cpdef give_back(self, int index, long long note, int verdict, long long now_ns)
    cpdef bint is_available(self, long long now_ns) except -1
    cpdef bint has_room(self, long long now_ns) except -1
    @cython.locals(picked=cython.longlong)
    cdef int _pick_for(self, Exchange x, long long now_ns) except? -1
    cpdef int try_next(self, Exchange x, long long now_ns) except? -1
    cdef _nobody(self)
    cpdef bint try_another(self, Exchange x, long long now_ns) except -1
    cpdef answered(self, Exchange x, long long now_ns)
    cpdef suspect(self, Exchange x, long long now_ns)
    cpdef rest(self, Exchange x, double seconds, long long now_ns)
    cpdef follow_models(self, long long version)
    cpdef left_out(self, str model)
    cpdef cached_plan(self, Exchange x)
    cpdef cached_destination(self)
    cdef _leave_out(self, Exchange x)
    cdef _mask(self, str model)
    cdef _choose(self, Exchange x, long long now_ns)
