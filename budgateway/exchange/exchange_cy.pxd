# An exchange's fields, by lifetime. Times are monotonic nanoseconds.
cimport cython


cdef class Exchange:
    # request
    cdef public object head             # native.RequestHead
    cdef public object downstream       # server.connection_cy.ServerConnection
    cdef public str client              # address, without port
    cdef public str network             # the client's address as limits count it
    cdef public long long started_ns    # the head was complete
    cdef public long long ready_ns      # the body was complete, or began to stream: the gateway's time starts
    cdef public int flags               # of the request's head
    cdef public int dialect             # the client's: its number in wire.dialects
    cdef public str request_id
    cdef public bytes body              # whole, or None while it streams
    cdef public Py_ssize_t body_bytes   # received so far
    cdef public bint body_done
    cdef public object form             # wire.multipart.FormReader of a form, read as it arrives
    cdef public bint is_head            # the method is HEAD
    cdef public object trace            # native.Trace, if it is sampled, or an attempt failed while tracing is on; else None
    # stages
    cdef public int resume_at           # last stage done: the plan goes on behind it after a wait
    cdef public int step                # number of the route's own stages that have decided
    cdef public object snapshot
    cdef public object principal        # records.Principal
    cdef public object verified         # auth.authenticator_cy.VerifiedCredential
    cdef public bytes principal_lines   # principal header lines, for the admin server
    cdef public str limit_key           # what limits count by: the principal, or the network
    cdef public object global_reservation  # limits.global_limits.GlobalReservation: its share of the global limits
    cdef public object reservation      # native.Reservation: what the limits admitted, settled at the end
    cdef public object peek             # native.BodyPeek
    cdef public bint streams            # the body requests a stream
    cdef public str model               # as the client names it
    cdef public bint hides_model        # its model cannot be seen: it may be any
    cdef public int model_label
    cdef public object route            # routing.router_cy.CompiledRoute
    cdef public object destination      # routing.router_cy.Destination: the destination in use
    cdef public object handshake        # wire.websocket.Handshake, of a WebSocket request
    cdef public object reply            # reply.Reply: a response of our own, instead of an upstream's
    cdef public object tap              # tap.Tap: a copy of the answer goes to it; None: to nobody
    cdef public bytes cors              # CORS header lines of the response; empty: none
    cdef public str pin                 # key that keeps related exchanges at one provider and upstream
    cdef public tuple transforms        # names of the transformation rules that were applied; None: none
    # attempt
    cdef public int index               # of the upstream, while its slot is held; else -1
    cdef public long long note          # of the balancing policy, about the attempt whose slot is held
    cdef public unsigned long long tried
    cdef public int attempts
    cdef public int destination_attempts  # attempts on this destination
    cdef public int fallback            # number of the route's fallbacks used so far
    cdef public long long retries       # reasons of its retries: counters of balance.attempts_cy
    cdef public long long until_ns      # the client's deadline for the exchange; 0: none but the route's
    cdef public long long answer_ns     # deadline for a response to begin, over all attempts; 0: not yet known
    cdef public object timer            # timer of a further attempt
    cdef public Exchange other          # the concurrent attempt (hedging), until one of the two answers
    cdef public Exchange primary        # of a twin: the exchange that it belongs to
    cdef public long long began_ns      # start of the first attempt, if hedging measures it; else 0
    cdef public int span                # the attempt's number in the trace; -1: none
    cdef public object target           # transport.client_cy.Target of this attempt
    cdef public object adapter          # providers.passthrough_cy.Passthrough of its destination and dialect
    cdef public object head_edits       # native.HeadEdits: target and lines other than the client's; None: none
    cdef public object translation      # native.Translation: the way back for the answer; None: it passes
    cdef public bytes send_body         # the body to send upstream, after edits
    cdef public object connection       # transport.client_cy.ClientConnection
    cdef public object task             # task of a waiting stage or dial
    cdef public object waiter           # balance.queue.Waiter, while it is queued
    cdef public bint reused             # the connection had served before
    cdef public bint heard              # bytes of a response came, valid or not
    cdef public bint force_dial         # a stale connection failed it: dial a new one
    cdef public bint reported_early     # its first bytes were reported to the breaker as a success: its end is not
    cdef public bint streamed           # the body was streamed upstream: it cannot be sent again
    cdef public bint request_sent       # the request, or a part of it, was sent to an upstream
    cdef public bint rename             # the upstream knows the model by another name
    cdef public bint keeps_usage        # the gateway requested the stream's usage, the client did not
    # response
    cdef public int status              # the upstream's, once its head was read; else ours
    cdef public int response_flags      # of the response's head
    cdef public Py_ssize_t declared_length  # its content-length; -1 when it has none
    cdef public str error               # code of the error that ended it
    cdef public long long deadline_ns   # of the current phase; 0: none
    cdef public bint progressed         # bytes moved since the last sweep
    cdef public bint stalled            # the client read nothing within the last deadline
    cdef public bint chunked            # downstream framing
    cdef public bint sse                # the response is an event stream
    cdef public bint to_close           # the connection's end ends it (HTTP/1.0 client)
    cdef public bint keep_alive         # the client's connection stays open
    cdef public bint head_sent
    cdef public bint closed
    cdef public long long first_byte_ns  # the response's head was read
    cdef public long long token_ns      # time of a stream's first token; 0: not yet
    cdef public long long read_ns       # start of the read with which a held head leaves
    cdef public long long overhead_ns   # time spent in the gateway itself
    cdef public Py_ssize_t bytes_out
    cdef public object pump             # native.BodyPump or an adapter's own, once a body streams
    cdef public bytes answer_lines      # header lines of an answer that the adapter translates; None: it passes
    cdef public bytes held              # a response head, held while the response is checked
    cdef public int hold                # what the held head waits for: response_check_cy's HOLD_*
    cdef public bint has_terminator     # a stream: its pump knows whether the terminator came
    cdef public object doubt            # the error for which the response is rejected
    cdef public list waiting            # bytes held behind the head
    cdef public Py_ssize_t waiting_bytes
    cdef public long long last_byte_ns  # time of the stream's last bytes, by the sweep's clock
    cdef public object document         # a whole JSON body that is no stream: its bytes, or its native.ResponseHead

    @cython.locals(h=Exchange, bit=cython.ulonglong)
    cpdef Exchange twin(self, long long now_ns)
    cpdef become(self, Exchange h)
