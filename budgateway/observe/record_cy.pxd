from budgateway.exchange_cy cimport Exchange


cdef class Recorder:
    cdef object _observe, _append
    cdef object _flush
    cdef long long _epoch_ns
    cdef Py_ssize_t _block_bytes

    cpdef record(self, Exchange x, int outcome, long long now_ns)
    cpdef refuse(self, str client, str request_id, error, long long now_ns)
