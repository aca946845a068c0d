cdef class Framing:
    cdef public bint complete


cdef class HeadFraming(Framing):
    cdef public bint head_done
