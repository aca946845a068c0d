# An exchange's fields, by lifetime. Times are monotonic nanoseconds.
cimport cython


cdef class Exchange:
    # request
    cdef public object head             # native.RequestHead
    cdef public object downstream       # server.connection_cy.ServerConnection
    cdef public str client              # address, without port
    cdef public str network             # its address as limits count it
    cdef public long long started_ns    # the head was complete
    cdef public long long ready_ns      # the body was whole (or began to stream): the gateway's turn
    cdef public int flags               # of the request's head
    cdef public str request_id
    cdef public bytes body              # whole, or None while it streams
    cdef public Py_ssize_t body_bytes   # received so far
    cdef public bint body_done
    cdef public object form             # wire.form.FormReader, of a form that is read as it comes
    cdef public bint to_head            # the method is HEAD
    # stages
    cdef public int stage               # the one behind which its plan goes on, after a wait
    cdef public int step                # of the route's own stages, those that have decided
    cdef public object snapshot
    cdef public object principal        # records.Principal
    cdef public object standing         # auth.authenticator_cy.Standing
    cdef public bytes vouched           # header lines that tell the back office who asks
    cdef public str limit_key           # whom limits count: the principal, or the address
    cdef public object claim            # limits.across.Claim: what it holds of all hosts' limits
    cdef public object grant            # native.Grant: what it holds of its limits
    cdef public object peek             # native.BodyPeek
    cdef public bint streams            # its body says so: a stream is asked for
    cdef public str model               # as the client says it
    cdef public bint hides_model        # it names none that can be seen, and may mean any
    cdef public int model_label
    cdef public object route            # routing.router_cy.RouteRoom
    cdef public object leg              # routing.router_cy.Leg: the provider that is asked now
    cdef public object handshake        # wire.upgrade.Handshake, when it asks for a WebSocket
    cdef public object reply            # reply.Reply: an answer of our own, instead of an upstream's
    cdef public bytes cors              # header lines for pages of other origins; empty: none
    cdef public str pin                 # what keeps it with others at one provider and upstream
    # attempt
    cdef public int index               # of the upstream, while its slot is held; else -1
    cdef public unsigned long long tried
    cdef public int attempts
    cdef public int leg_attempts        # of them, on this leg
    cdef public int fallback            # the route's fallbacks gone to so far
    cdef public long long retries       # why it was tried again: balance.attempts_cy's counters
    cdef public long long until_ns      # when the exchange must be over; 0: when its route says
    cdef public long long answer_ns     # when its answer must have begun, whoever gives it; 0: not yet known
    cdef public object timer            # a further attempt that waits for its time
    cdef public Exchange rival          # a second attempt beside this one (a twin), until one of the two answers
    cdef public Exchange main           # of a twin: the exchange
    cdef public long long began_ns      # when its first attempt began, where hedging goes by that; else 0
    cdef public object target           # transport.client_cy.Target of this attempt
    cdef public bytes send_body         # what goes upstream: the body after edits
    cdef public object connection       # transport.client_cy.ClientConnection
    cdef public object task             # a stage or a dial that waits
    cdef public object waiter           # balance.queue.Waiter, while it stands in a queue
    cdef public bint reused             # the connection had served before
    cdef public bint heard              # bytes of an answer came, whatever they are
    cdef public bint fresh              # a stale connection failed it: dial a new one
    cdef public bint vouched_early      # its beginning closed a breaker's trial: its end says no more
    cdef public bint streamed           # its body went upstream as it came: it cannot be sent again
    cdef public bint asked              # an upstream was sent the request, or a part of it
    cdef public bint rename             # the upstream knows the model by another name
    cdef public bint keeps_usage        # the upstream is asked for the stream's usage, the client did not ask
    # response
    cdef public int status              # the upstream's, once its head was read; else ours
    cdef public int told_flags          # of the response's head
    cdef public Py_ssize_t told_length  # its content-length; -1 when it has none
    cdef public str error               # code of the error that ended it
    cdef public long long deadline_ns   # of the current phase; 0: none
    cdef public bint progressed         # bytes moved since the last sweep
    cdef public bint stalled            # the client read nothing within the last deadline
    cdef public bint chunked            # downstream framing
    cdef public bint sse                # the response is an event stream
    cdef public bint to_close           # its end is the connection's (HTTP/1.0 client)
    cdef public bint keep_alive         # downstream may go on
    cdef public bint head_sent
    cdef public bint closed
    cdef public long long first_byte_ns # the response's head was read
    cdef public long long token_ns      # a stream said something for the first time; 0: not yet
    cdef public long long read_ns       # when the read began by which a held head leaves
    cdef public long long overhead_ns   # the gateway's own share
    cdef public Py_ssize_t bytes_out
    cdef public object pump             # native.BodyPump, once a body streams
    cdef public bytes held              # a head that waits for what comes behind it
    cdef public int hold                # what it waits for: judge_cy's HOLD_*
    cdef public bint ends               # the response is a stream: whether it says where it ends its pump knows
    cdef public object doubt            # why the response is none
    cdef public list waiting            # of bytes: what already came behind the head
    cdef public Py_ssize_t waiting_bytes
    cdef public long long spoke_ns      # when a byte of the stream was last seen, by the sweep's clock
    cdef public object document         # else a whole JSON body: its bytes, or the native.ResponseHead before it

    @cython.locals(h=Exchange, bit=cython.ulonglong)
    cpdef Exchange twin(self, long long now_ns)
    cpdef become(self, Exchange h)


cdef class Carrier:
    cpdef start(self, Exchange x)
    cpdef body(self, Exchange x, bytes data)
    cpdef body_end(self, Exchange x)
    cpdef gone(self, Exchange x)
    cpdef writable(self, Exchange x, bint ok)
    cpdef sweep(self, Exchange x, long long now_ns)
    cpdef fail(self, Exchange x, error)
    cpdef refuse_malformed(self, connection, error, bytes data)
    cpdef received(self, Exchange x, head, bytes out, bint complete, long long now_ns)
    cpdef lost(self, Exchange x, error)
    cpdef upstream_writable(self, Exchange x, bint ok)
    cpdef crashed(self, Exchange x, error)
    cpdef switched(self, Exchange x, connection, head, bytes rest)
    cpdef socket_ended(self, Exchange x, int outcome, int verdict, long long now_ns)
