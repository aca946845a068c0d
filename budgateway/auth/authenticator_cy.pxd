cimport cython

from budgateway.exchange.exchange_cy cimport Exchange

cdef int _UPGRADE


cdef class VerifiedCredential:
    cdef public object principal        # records.Principal
    cdef public str id                  # its id
    cdef public double expires          # seconds since the epoch
    cdef public long long class_number  # of the principal's class
    cdef public object profile          # auth.roles.Profile
    cdef public dict known              # the profile's decisions: (route, method, model) -> Decision


cdef class Authenticator:
    cdef public object credentials      # native.CredentialCache, or None

    cpdef identify(self, Exchange x)
    cpdef authorize(self, Exchange x, str access, str route)
    cpdef learn(self)
    cpdef cached_plan(self, Exchange x)
    cpdef recall(self, Exchange x, tuple credential)


cdef class CredentialAuthenticator(Authenticator):
    cdef object _bearers                # auth.bearer.Bearers
    cdef object _credential_store       # auth.credential_store.CredentialStore
    cdef object _roles                  # auth.roles.Roles
    cdef bint _lists_openly
    cdef dict _by_authorization         # Authorization value, with its scheme -> VerifiedCredential
    cdef dict _by_key                   # key header's value -> VerifiedCredential
    cdef dict _classes                  # number -> auth.roles.PrincipalClass, of the remembered credentials
    cdef dict _rejected                 # digests of tokens that the current keys do not verify

    @cython.locals(verified=VerifiedCredential)
    cpdef identify(self, Exchange x)
    @cython.locals(verified=VerifiedCredential)
    cpdef authorize(self, Exchange x, str access, str route)
    @cython.locals(known=VerifiedCredential)
    cpdef cached_plan(self, Exchange x)
    @cython.locals(verified=VerifiedCredential)
    cpdef recall(self, Exchange x, tuple credential)
    cdef _key(self, Exchange x)
    cpdef look_again(self, Exchange x)
    @cython.locals(verified=VerifiedCredential, known=dict)
    cdef _look(self, Exchange x, bint may_wait)
    cdef VerifiedCredential _remember(self, bint is_key, str given, object principal, double expires)
    cdef VerifiedCredential _recalled(self, tuple remembered)
    cdef _keep(self, dict known, str given, VerifiedCredential verified)
    cdef _find(self, str token, double now)
    cdef tuple _credential(self, Exchange x)
    cdef bint _is_credential_given(self, Exchange x)
    cdef _unknown(self, Exchange x)
    cdef _forbidden(self, VerifiedCredential verified, str message, str why)
