cimport cython

from budgateway.balance.attempts_cy cimport Attempts
from budgateway.balance.balancer_cy cimport Balancer
from budgateway.balance.hedge_cy cimport Hedging
from budgateway.exchange.exchange_cy cimport Exchange
from budgateway.exchange.handler_cy cimport ExchangeHandler
from budgateway.routing.router_cy cimport Destination, CompiledRoute
from budgateway.transport.client_cy cimport ClientConnection, Target
from budgateway.wire.chunked_cy cimport chunk

cdef int _KEEP_ALIVE
cdef Py_ssize_t JOINED_BYTES
cdef int _TIMED, _HEDGE_LOST


cdef class AttemptSender:
    # process
    cdef ExchangeHandler _handler
    cdef object _spawn, _later
    cdef public object plain            # transport.sockets.PlainSockets
    # configuration
    cdef public object tracer           # native.Tracer; None: nothing is traced
    cdef public Py_ssize_t share

    @cython.locals(destination=Destination, balancer=Balancer)
    cpdef spread(self, Exchange x)
    @cython.locals(route=CompiledRoute, target=Target, connection=ClientConnection, attempts=Attempts)
    cpdef send(self, Exchange x)
    cpdef connected(self, Exchange x, ClientConnection connection)
    cdef _connected(self, Exchange x, ClientConnection connection)
    cpdef unreachable(self, Exchange x, error)
    @cython.locals(verdict=cython.int)
    cdef _unreachable(self, Exchange x, error)
    @cython.locals(primary=Exchange)
    cdef Exchange _dialled(self, Exchange x)
    @cython.locals(
        body=bytes, head=bytes, length=Py_ssize_t, target=Target, route=CompiledRoute, attempts=Attempts,
        now_ns=cython.longlong, done=bint,
    )
    cdef _send(self, Exchange x, ClientConnection connection)
    @cython.locals(attempts=Attempts, delay_ns=cython.longlong)
    cpdef bint another(self, Exchange x, int verdict, int reason, long long wait_ns, long long now_ns) except -1
    cpdef note_failure(self, Exchange x, target, int reason, long long now_ns)
    @cython.locals(connection=ClientConnection)
    cpdef retry(self, Exchange x, long long delay_ns, long long now_ns)
    cpdef _resume(self, Exchange x)
    @cython.locals(delay_ns=cython.longlong)
    cdef _arm(self, Exchange x, Hedging hedging)
    @cython.locals(attempts=Attempts, h=Exchange)
    cpdef _hedge(self, Exchange x)
    @cython.locals(loser=Exchange, primary=Exchange, attempts=Attempts, now_ns=cython.longlong)
    cpdef Exchange won(self, Exchange x)
    @cython.locals(twin=Exchange)
    cpdef cancel_other(self, Exchange x, long long now_ns)
    @cython.locals(other=Exchange, primary=Exchange)
    cdef _fall_out(self, Exchange x, int verdict, long long now_ns)
    @cython.locals(twin=Exchange)
    cdef _part(self, Exchange primary, Exchange loser)
    @cython.locals(balancer=Balancer, connection=ClientConnection, bit=cython.ulonglong)
    cdef _call_off(self, Exchange x, int verdict, long long now_ns)
