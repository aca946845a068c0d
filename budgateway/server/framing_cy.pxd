from budgateway.wire.framing_cy cimport Framing


cdef class RequestFraming(Framing):
    cdef public bint head_done
    cdef object _feed                   # llhttp's `feed_data`, bound once

    cpdef read(self, piece, bint chunked, Py_ssize_t length)
    cpdef close(self)
