cimport cython

from budgateway.balance.attempts_cy cimport Attempts
from budgateway.balance.balancer_cy cimport Balancer
from budgateway.balance.hedge_cy cimport Hedging
from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.exchange.handler_cy cimport ExchangeHandler
from budgateway.routing.router_cy cimport Leg, RouteRoom
from budgateway.transport.client_cy cimport ClientConnection, Target

cdef int _KEEP_ALIVE
cdef Py_ssize_t JOINED_BYTES
cdef int _TIMED
cdef long long SUSPECT_NS


cdef class Courier(ExchangeHandler):
    # process
    cdef object _spawn, _later
    cdef public object plain            # transport.sockets.PlainSockets
    # configuration
    cdef public Py_ssize_t share

    cpdef give_up(self, Exchange x, error)
    @cython.locals(leg=Leg, balancer=Balancer)
    cdef _spread(self, Exchange x)
    @cython.locals(route=RouteRoom, target=Target, connection=ClientConnection, attempts=Attempts)
    cpdef execute(self, Exchange x)
    cpdef connected(self, Exchange x, ClientConnection connection)
    cdef _connected(self, Exchange x, ClientConnection connection)
    cpdef unreachable(self, Exchange x, error)
    @cython.locals(verdict=cython.int)
    cdef _unreachable(self, Exchange x, error)
    @cython.locals(
        body=bytes, head=bytes, length=Py_ssize_t, target=Target, route=RouteRoom, attempts=Attempts,
        now_ns=cython.longlong, done=bint,
    )
    cdef _send(self, Exchange x, ClientConnection connection)
    @cython.locals(attempts=Attempts, delay_ns=cython.longlong)
    cdef bint _another(self, Exchange x, int verdict, int reason, long long wait_ns, long long now_ns) except -1
    @cython.locals(connection=ClientConnection)
    cdef _retry(self, Exchange x, long long delay_ns, long long now_ns)
    cpdef _resume(self, Exchange x)
    @cython.locals(route=RouteRoom, target=Target, leg=Leg, balancer=Balancer, since_ns=cython.longlong)
    cdef _listen(self, Exchange x, long long now_ns)
    @cython.locals(leg=Leg, balancer=Balancer)
    cdef _rest(self, Exchange x, head, long long now_ns)
    @cython.locals(delay_ns=cython.longlong)
    cdef _arm(self, Exchange x, Hedging hedging)
    @cython.locals(attempts=Attempts, h=Exchange)
    cpdef _hedge(self, Exchange x)
    @cython.locals(loser=Exchange, main=Exchange, attempts=Attempts, now_ns=cython.longlong)
    cdef Exchange _won(self, Exchange x)
    @cython.locals(other=Exchange, main=Exchange)
    cdef _fall_out(self, Exchange x, int verdict, long long now_ns)
    @cython.locals(h=Exchange)
    cdef _part(self, Exchange main, Exchange loser)
    @cython.locals(balancer=Balancer, connection=ClientConnection, bit=cython.ulonglong)
    cdef _call_off(self, Exchange x, int verdict, long long now_ns)


cpdef bytes chunk(bytes data)
