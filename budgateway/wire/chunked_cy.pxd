cimport cython


cpdef bytes chunk(bytes data)

@cython.locals(at=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t)
cpdef bytes unchunk(bytes framed)
