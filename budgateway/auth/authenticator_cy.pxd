cimport cython

from budgateway.exchange.exchange_cy cimport Exchange

cdef int _UPGRADE


cdef class Standing:
    cdef public object principal        # records.Principal
    cdef public str id                  # its id
    cdef public double expires          # seconds since the epoch
    cdef public object profile          # auth.roles.Profile
    cdef public dict known              # the profile's decisions: (route, method, model) -> Decision


cdef class Authenticator:
    cpdef identify(self, Exchange x)
    cpdef authorize(self, Exchange x, str access, str route)
    cpdef learn(self)
    cpdef given(self, Exchange x)
    @cython.locals(standing=Standing)
    cpdef cached_plan(self, Exchange x)


cdef class CredentialAuthenticator(Authenticator):
    cdef object _bearers                # auth.bearer.Bearers
    cdef object _vault                  # auth.vault.Vault
    cdef object _roles                  # auth.roles.Roles
    cdef bint _lists_openly
    cdef dict _by_authorization         # Authorization value, with its scheme -> Standing
    cdef dict _by_key                   # key header's value -> Standing
    cdef dict _rejected                 # digests of tokens that the current keys do not verify

    @cython.locals(standing=Standing)
    cpdef identify(self, Exchange x)
    @cython.locals(standing=Standing)
    cpdef authorize(self, Exchange x, str access, str route)
    @cython.locals(standing=Standing, known=Standing)
    cpdef given(self, Exchange x)
    cdef _key(self, Exchange x)
    cpdef look_again(self, Exchange x)
    @cython.locals(standing=Standing, known=dict)
    cdef _look(self, Exchange x, bint may_wait)
    cdef _find(self, str token, double now)
    cdef tuple _credential(self, Exchange x)
    cdef bint _is_credential_given(self, Exchange x)
    cdef _unknown(self, Exchange x)
    cdef _forbidden(self, Standing standing, str message, str why)
