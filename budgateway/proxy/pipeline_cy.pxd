cimport cython

from budgateway.auth.authenticator_cy cimport Authenticator
from budgateway.balance.attempts_cy cimport Attempts
from budgateway.balance.balancer_cy cimport Balancer
from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.limits.prepared_cy cimport RouteLimits
from budgateway.limits.stage_cy cimport Limits
from budgateway.providers.passthrough_cy cimport Passthrough
from budgateway.routing.router_cy cimport Destination, Router, CompiledRoute


cdef class Snapshot:
    cdef public object settings         # records.Settings
    cdef public Authenticator auth
    cdef public Limits limits
    cdef public Router routes
    cdef public dict providers          # name -> tuple of transport.client_cy.Target
    cdef public object origins          # routing.cors.CrossOrigins


@cython.locals(
    snapshot=Snapshot, route=CompiledRoute, configured=RouteLimits, destination=Destination, adapter=Passthrough,
    balancer=Balancer, done=cython.int, stages=tuple,
)
cpdef plan(Exchange x)


@cython.locals(snapshot=Snapshot, route=CompiledRoute, destination=Destination, attempts=Attempts)
cpdef tuple stages_of(Exchange x)
