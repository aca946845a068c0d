cdef class Framing:
    cdef public bint complete
