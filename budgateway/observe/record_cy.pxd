cimport cython

from budgateway.exchange.exchange_cy cimport Exchange

cdef Py_ssize_t _ROUTE, _PROVIDER, _MODEL_LABEL, _STATUS, _OUTCOME, _ATTEMPTS, _RETRIES, _IS_STREAM, _IS_ASKED
cdef Py_ssize_t _BYTES_IN, _BYTES_OUT, _STARTED_NS, _FIRST_NS, _ENDED_NS, _OVERHEAD_NS, _CELLS


cdef class Recorder:
    cdef long long[::1] _row
    cdef public object ledger           # native.Ledger
    cdef public object flush
    cdef public Py_ssize_t block_bytes
    cdef object _record

    @cython.locals(row="long long[::1]", waiting=Py_ssize_t)
    cpdef record(
        self, Exchange x, int outcome, int route_label, int provider_label, str upstream, price, long long now_ns
    )
    cpdef tuple used(self)
    @cython.locals(row="long long[::1]", cell=Py_ssize_t)
    cpdef refuse(self, str client, str request_id, error, Py_ssize_t bytes_out, long long now_ns)
