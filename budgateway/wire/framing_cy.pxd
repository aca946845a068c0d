cdef class Framing:
    cdef public bint head_done
    cdef public bint complete
