"""The compiled core: routing, limits, selection, scanning and rewriting of bytes.

Conventions: time is an argument, monotonic nanoseconds; bytes are borrowed for the call; "no match" and "not yet" are
None or -1, never an exception. What is wrong with a message raises a class of `budgateway.errors`."""

from collections.abc import Callable, Sequence
from typing import Any, Final, final

from typing_extensions import Buffer

ABI: Final[int]
BUILD_PROFILE: Final[str]

# ---------------------------------------------------------------- hot state: one shared mapping

@final
class Segment:
    """The shared mapping that holds hot state: labels, upstream slots, buckets, metrics, a row for each worker.

    Made once by the supervisor (`Segment(workers)`, 1 to 64), attached by workers from the inherited descriptor. There is
    room for 2,047 labels and 1,024 upstreams. Names above 118 bytes are cut and end in `~` and a hash of the whole."""

    def __new__(cls, workers: int = 1) -> Segment: ...
    @staticmethod
    def attach(fd: int) -> Segment:
        """Map the segment behind `fd`, which is duplicated; ValueError when it is not one of this version's, OSError when
        it is no descriptor."""
    @property
    def fd(self) -> int:
        """The descriptor to pass on (`pass_fds`); closed with the segment."""
    @property
    def size(self) -> int:
        """Bytes mapped (only touched pages are resident)."""
    @property
    def workers(self) -> int:
        """Rows there are."""
    def intern(self, name: str) -> int:
        """The id of a label, the same in every process; 0 ("other") for "" and when the table is full. Idempotent."""
    def label(self, id: int) -> str:
        """The name behind an id; "other" for 0 and for ids never given out."""
    def upstream(self, url: str) -> int:
        """The slot of an upstream, by URL; kept across reloads. ValueError when all slots are taken."""
    def judge(self, upstream: int, healthy: bool | None, now_ns: int, *, silent: bool = False) -> None:
        """A probe's word about the upstream in this slot, `silent` when traffic hears as little; None: nobody probes it any
        more. ValueError, as for all that follow, for a slot that was never given out."""
    def welcome(self, upstream: int, now_ns: int) -> None:
        """The upstream is new beside others: it starts slowly."""
    def suspect(self, upstream: int, now_ns: int) -> None:
        """Traffic hears nothing of the upstream."""
    def take_suspicion(self, upstream: int) -> int:
        """When somebody first suspected it since this was last asked, in monotonic nanoseconds; 0 if nobody did."""
    def signal(self, upstream: int, running: int, waiting: int, kv_usage: float, now_ns: int) -> None:
        """What its engine says of its load: requests computed and waiting, share of the KV cache in use (0 to 1). At time 0
        what it said is forgotten."""
    def set_models(self, upstream: int, models: Sequence[str]) -> None:
        """The models it lists; none, or more than 255: not known."""
    @property
    def models_version(self) -> int:
        """Rises with every `set_models`."""
    today: int  # the day that budgets go by, counted from 1970, for all processes; 0 while nobody keeps it
    def save_limits(self, clocks: tuple[int, int, int, int, int, int]) -> bytes:
        """Budgets, and rates that take more than ten seconds to refill, for `load_limits` of a later segment. Holds a secret:
        whoever reads it could choose keys that collide. `clocks` are `limits.calendar.Clocks`."""
    def load_limits(self, state: bytes, clocks: tuple[int, int, int, int, int, int]) -> tuple[int, int]:
        """Go on from there, before a `LimitSet` is made; ValueError. Seconds that the wall clock was set by, and `behind_s`."""
    def carry_budgets(self, from_day: int, to_day: int) -> None:
        """The clock was set: what was spent in periods that run on one day counts in those of the other."""
    def count_limits(self, changes: bytes, now_ns: int, today: int, guest: int | None = None) -> None:
        """Count here what a `LimitLedger` of another gateway says; the first time before a `LimitSet` is made. What runs there
        counts as running in the row `guest`. ValueError when it is no ledger's."""
    def clear_worker(self, worker: int) -> None:
        """Zero the row of a worker that died: its in-flight counts and gauges."""
    def gauge(self, worker: int, gauge: int) -> int:
        """The value of one of the `GAUGE_*` of one worker."""
    def add(self, worker: int, gauge: int, delta: int) -> None:
        """Move a gauge of a worker's row."""
    def enter(self, worker: int, gauge: int, most: int) -> bool:
        """Count one more in a worker's gauge, unless that makes more than `most` in all rows."""

GAUGE_CONNECTIONS: Final[int]
GAUGE_EXCHANGES: Final[int]
GAUGE_POOL_IDLE: Final[int]
GAUGE_POOL_BUSY: Final[int]
GAUGE_STREAMS: Final[int]
GAUGE_TICK: Final[int]  # when the worker's loop last turned, in monotonic nanoseconds
GAUGE_SOCKETS: Final[int]
GAUGE_SOCKET_FRAMES_IN: Final[int]  # passed on since the worker began: from clients, and to them
GAUGE_SOCKET_FRAMES_OUT: Final[int]
GAUGE_SOCKET_BYTES_IN: Final[int]
GAUGE_SOCKET_BYTES_OUT: Final[int]
GAUGE_STORE_AWAY: Final[int]  # Redis: 1 while it is away; then, since the worker began, what its names say
GAUGE_STORE_CALLS: Final[int]
GAUGE_STORE_FALLBACKS: Final[int]
GAUGE_STORE_LOST: Final[int]
GAUGE_MIRRORED: Final[int]  # copies of requests since the worker began: answered, failed, never sent
GAUGE_MIRRORS_FAILED: Final[int]
GAUGE_MIRRORS_SKIPPED: Final[int]
GAUGE_LINES_LOST: Final[int]  # access lines that were not written, since the worker began

@final
class RateLimit:
    """GCRA buckets by key for one limit (a scope name, a rate and a burst), in the segment: shared by all workers.

    Limits equal in all three are one limit, in whatever process; those that differ share nothing, so after a change of
    rate keys begin with full buckets. All limits together have room for some 90,000 keys in use; when a key finds none,
    the one whose bucket would be full first is forgotten: that admits more, never less. ValueError for a rate that is not
    positive, a burst below 1, or a bucket that takes decades to fill."""

    def __new__(cls, segment: Segment, scope: str, per_minute: float, burst: int) -> RateLimit: ...
    def take(self, key: str | bytes, cost: int, now_ns: int) -> int:
        """Debit `cost`: what remains (>= 0), or minus the nanoseconds to wait (< 0) and nothing was debited.

        A cost above the burst is refused for ever; its wait is the time of a whole refill. Text is the same key as its
        UTF-8."""
    def refund(self, key: str | bytes, cost: int) -> None:
        """Give back a debit, when a later dimension refused."""
    def reset_ns(self, key: str | bytes, now_ns: int) -> int:
        """Nanoseconds until the bucket is full again."""

@final
class LimitLedger:
    """What a segment's limits have counted, for a gateway that takes over (`Segment.count_limits`)."""

    def __new__(cls, segment: Segment) -> LimitLedger: ...
    def changes(self, now_ns: int, today: int) -> bytes | None:
        """What was counted since this was last asked, at first everything; None for nothing. Holds the secret that keys are
        hashed with."""

BY_USER: Final[int]  # the principal; the client's address while nobody is known
BY_KEY: Final[int]
BY_TENANT: Final[int]
BY_MODEL: Final[int]  # as the client says it
BY_ROUTE: Final[int]
BY_ADDRESS: Final[int]

@final
class Price:
    """What a model's tokens cost, in dollars for a million of them; ValueError for what is no price.

    `max_output_tokens`: the most it writes; 0 when that is not known."""

    def __new__(cls, input: float, cached: float, output: float, *, max_output_tokens: int = 0) -> Price: ...
    def micros(self, tokens_in: int, tokens_out: int, tokens_cached: int) -> int:
        """Micro-dollars, to the nearest. Cached tokens are among those read."""

@final
class LimitSet:
    """All limits that apply to one kind of exchange, decided together: everything is taken, or nothing.

    `limits`: (name, `BY_*` or'ed together, kind, amount, period, burst), 64 at most; `BY_*` of 0 counts everybody together,
    and who lacks what a limit counts by is not counted by it. Kinds: "requests" and "tokens" (`amount` a "minute", "hour"
    or "day", `burst` at once: GCRA), "concurrency" (`amount` at a time; period and burst play no part) and "spend"
    (`amount` micro-dollars a "day", "week" or "month" of the calendar, UTC). Limits of the same name, subject and kind
    with the same rate are one limit, in whatever process and set; a changed rate begins with full buckets, a changed
    concurrency or budget goes on with what is used. No limit is ever exceeded by what was asked for, not for a moment;
    what was refused has consumed nothing.

    `output_tokens`: what an answer is taken to need when its request does not say. ValueError for what is no limit."""

    def __new__(
        cls,
        segment: Segment,
        worker: int,
        route: str,
        limits: Sequence[tuple[str, int, str, int, str, int]],
        *,
        output_tokens: int = 1024,
        headers: bool = True,
    ) -> LimitSet: ...
    def decide(
        self,
        user: str,
        key: str,
        tenant: str,
        model: str,
        address: str,
        peek: BodyPeek | None,
        body_bytes: int,
        price: Price | None,
        now_ns: int,
        today: int,
        /,
    ) -> Grant | Refusal:
        """Take one request, the tokens it may come to, a lease, and what they may cost. Empty text: there is none. Tokens
        are estimated when there is a model: a quarter of `body_bytes`, and `max_tokens` of the body. `today` is days since
        1970, UTC."""
    def follow(
        self,
        user: str,
        key: str,
        tenant: str,
        model: str,
        address: str,
        peek: BodyPeek | None,
        body_bytes: int,
        now_ns: int,
        /,
    ) -> Grant:
        """Count along while others decide: take of the rates as much of it as is there, and refuse nothing."""
    def refusal(self, limit: int, wait_ns: int, never: bool, left: int, reset_ns: int) -> Refusal:
        """One that was decided elsewhere, for the limit at that place."""

@final
class Grant:
    """What one exchange holds of its limits, until it is settled; dropped unsettled, it gives back all but the request."""

    def settle(self, tokens: int, micros: int, now_ns: int) -> bool:
        """End it: the lease is over, tokens and money are debited by what they came to. False when it was ended before."""
    def debits(self) -> list[tuple[int, int, int]]:
        """What was debited, by limit: its place, the amount, and the day on which a budget's period ends (since 1970)."""
    def undo(self) -> None:
        """Give back everything, the request too."""
    def stand(self, requests: tuple[int, int, int] | None, tokens: tuple[int, int, int] | None) -> None:
        """How limits stand over all hosts, for `lines`: as `requests` and `tokens`. The first time counts."""
    @property
    def prompt_tokens(self) -> int:
        """The estimate of what is read."""
    @property
    def requests(self) -> tuple[int, int, int] | None:
        """Of the limits of requests the one with the least left: (place, left, nanoseconds until nothing is used)."""
    @property
    def tokens(self) -> tuple[int, int, int] | None:
        """The same of the limits of tokens."""
    def lines(self) -> bytes:
        """Header lines that tell a client how its limits stand."""

@final
class Refusal:
    """Why a decision took nothing. Of several limits that refuse, the one that takes longest."""

    @property
    def limit(self) -> int:
        """Its place among those given."""
    @property
    def wait_ns(self) -> int:
        """Until the same may fit; 0 when nobody can tell (concurrency). Of a budget: whole days, from midnight."""
    @property
    def never(self) -> bool:
        """It allows less than is asked for, ever."""
    @property
    def left(self) -> int: ...
    def lines(self, unit: str) -> bytes:
        """Header lines for limits of "requests" or "tokens"."""

@final
class UsageTable:
    """What was used since the gateway started, by principal, model and route; bounded, in the segment."""

    def __new__(cls, segment: Segment) -> UsageTable: ...
    def collect(self) -> list[tuple[str | None, str, str, str, int, int, int, int, int, int, int]]:
        """(principal, tenant, model, route, requests, tokens in, out, cached, reasoning, micro-dollars, exchanges whose
        tokens were estimated). "" is nobody known, None all who found no place; "other" is any model that has no label."""

@final
class Selector:
    """Picks an upstream: filter (breaker, drained, tried) -> score by policy -> random tie-break; counts in flight.

    `upstreams` are (slot, weight), 256 at most; what comes back is an index into that list. Weight 0 takes no traffic.
    `policy`: round_robin (weights aside), weighted (smooth), least_connections (weighted, in flight of all workers; ties
    in proportion to weight), random (weighted), power_of_two. Turns are taken by all workers together. `seed` feeds the
    random choices. A zero `failure_threshold` switches the breaker off; else that many failures in a row open it, and
    after `open_ns` it lets `half_open_max_calls` through: when all of them succeed it closes, when one fails it opens
    again, and when they are not heard of for `open_ns` as many more are let through. With a `failure_ratio` it opens as well
    when that share of at least `minimum_calls` within `window_ns` failed. `max_in_flight`, one number for each
    upstream, bounds what it takes at once from all workers together; 0 is no bound.

    `eject_after` failures in a row (0: never) take an upstream out for `eject_ns` times the times that this happened, no
    longer than `eject_max_ns`, give or take 15 %; no more than `eject_percent` of the list at a time, and never the last
    one: who fails beyond that is set aside for as long, and used only when nobody answers. When fewer than `panic_percent`
    are available, those that rest or are unhealthy are used, too, but whom traffic found failing only when nobody answers;
    open breakers stay open. Who comes back from anything gets its share within `slow_start_ns`, little by little."""

    def __new__(
        cls, segment: Segment, worker: int, policy: str, upstreams: Sequence[tuple[int, int]], *, seed: int = 0,
        failure_threshold: int = 0, open_ns: int = 60_000_000_000, half_open_max_calls: int = 3,
        max_in_flight: Sequence[int] = ..., failure_ratio: float = 0.0, minimum_calls: int = 20,
        window_ns: int = 30_000_000_000, eject_after: int = 0, eject_ns: int = 10_000_000_000,
        eject_max_ns: int = 300_000_000_000, eject_percent: int = 50, panic_percent: int = 50,
        slow_start_ns: int = 0,
    ) -> Selector: ...  # fmt: skip
    def pick(self, now_ns: int, tried: int = 0) -> int:
        """The chosen index, its in-flight count one higher; -1 when none is left, -2 when those that are left are full. Bit i
        of `tried` excludes index i; from 64 on, bits have no effect."""
    def release(self, index: int, verdict: int, now_ns: int) -> None:
        """End what `pick` began: in flight one lower, and the verdict (`VERDICT_*`) told to the breaker."""
    def in_flight(self, index: int) -> int:
        """Of all workers together."""
    def state(self, index: int, now_ns: int) -> str:
        """closed, open, half_open or drained."""
    def drain(self, index: int, drained: bool, now_ns: int = 0) -> None:
        """Take an upstream out of, or back into, every worker's choice: slowly, if the time is told."""
    def rest(self, index: int, for_ns: int, now_ns: int) -> bool:
        """Leave an upstream alone for a while, as it asked: whether it now rests. It does not without `eject_after`, when too
        many are out, or when it is the last one."""
    def answered(self, index: int, now_ns: int) -> bool:
        """The upstream begins to answer: a success at once where its breaker is half open, as a stream may take minutes.
        Whether it counted; then a success at the end is for `release` a neutral verdict."""
    def suspect(self, index: int, now_ns: int) -> None:
        """`Segment.suspect` of an upstream."""
    def lacking(self, model: str) -> int:
        """A mask, as for `tried`: those of the first 64 upstreams that list their models, but not this one. Nobody, when
        everybody lacks it."""
    def look(self, index: int, now_ns: int) -> Vitals:
        """All that is known of an upstream's health."""

@final
class Vitals:
    """An upstream's health as it was when looked at: `breaker` closed, open or half_open, and the calls and failures of late
    that its ratio is taken of; until when it is out (0: it is in), whether because it `asked` to, and whether only while
    another one answers (`aside`); failures in a row and
    ejections in all; a probe's word; how much of its weight counts; running, waiting, KV usage, and when it said so."""

    drained: Final[bool]
    breaker: Final[str]
    window: Final[tuple[int, int]]
    out_until_ns: Final[int]
    asked: Final[bool]
    aside: Final[bool]
    failures: Final[int]
    ejections: Final[int]
    healthy: Final[bool | None]
    share: Final[float]
    signals: Final[tuple[int, int, float] | None]
    signals_at_ns: Final[int]

@final
class Rendezvous:
    """A choice that one key always gets, on every worker and host, while it is there: weighted rendezvous hashing."""

    def __new__(cls, candidates: Sequence[tuple[str, int]]) -> Rendezvous:
        """Names and weights."""
    def best(self, key: str, excluded: int = 0) -> int:
        """The key's index; -1 when all are excluded. Bit i of `excluded` is index i; from 64 on none can be excluded."""

@final
class Split:
    """A route's traffic over its legs: by weight, after a canary had its share."""

    def __new__(
        cls, legs: Sequence[tuple[str, int]], canary: tuple[int, float] | None = None, *, seed: int = 0
    ) -> Split:
        """Names and weights, 64 at most; `canary` is a leg's index and its share, 0 to 1, of everything: the others divide
        the rest."""
    def pick(self, key: str | None, excluded: int = 0) -> int:
        """The leg of a key, the same every time; without a key the next in turn. -1 when all are excluded (bit i of
        `excluded` is leg i)."""

VERDICT_NEUTRAL: Final[int]
VERDICT_SUCCESS: Final[int]
VERDICT_FAILURE: Final[int]

@final
class Queue:
    """Exchanges that wait for an upstream with room, by name: what all workers know of each other's.

    They wait in their worker, who counts them in and out and says since when its first one waits. Times are monotonic
    nanoseconds. There is room for 256 queues."""

    def __new__(cls, segment: Segment, worker: int, name: str) -> Queue:
        """ValueError when all places are taken."""
    def join(self, limit: int) -> bool:
        """Count one in; False (and counted as refused) when `limit` wait already, in all workers together."""
    def leave(self, ending: int, waited_ns: int) -> None:
        """Count one out: `WAIT_SERVED` (an upstream had room), `WAIT_TIMED_OUT` or `WAIT_GONE`."""
    def say_first(self, since_ns: int) -> None:
        """Since when this worker's first one waits; 0 when nobody does."""
    def elder(self, since_ns: int, now_ns: int) -> int:
        """The row of the other worker whose first one has waited longest, if longer than one that came at `since_ns` (0:
        than nobody); else -1. Workers whose `GAUGE_TICK` is over a second old are passed over."""
    @property
    def depth(self) -> int:
        """How many wait, in all workers together."""
    @staticmethod
    def collect(segment: Segment) -> list[tuple[str, int, int, int, int, int, int, float]]:
        """Every queue: name, how many wait now; since the start how many had to wait, were served, timed out, left, were
        refused as the queue was full; and the seconds that the served ones had waited."""

WAIT_SERVED: Final[int]
WAIT_TIMED_OUT: Final[int]
WAIT_GONE: Final[int]

@final
class Pace:
    """How long something takes of late: about a thousand times count, older ones less and less."""

    def __new__(cls) -> Pace: ...
    def hear(self, ns: int) -> None:
        """It took so long."""
    def quantile(self, percent: int) -> int:
        """What that share took no longer than, in nanoseconds, at most an eighth too high; -1 before it was heard 32 times."""

@final
class RetryBudget:
    """What a provider's exchanges may be tried again: `percent` of them and `reserve` on top, over all workers. Every
    exchange that ends (see Ledger) pays back; nothing is saved above the reserve."""

    def __new__(cls, segment: Segment, provider: int, percent: int = 20, reserve: int = 3) -> RetryBudget:
        """`provider` is the label that the ledger knows it by."""
    def take(self) -> bool:
        """Take a retry out of the budget; False when there is none left."""
    def give_back(self) -> None:
        """Give one back that was not made."""
    def repay(self) -> None:
        """Pay back for an exchange that goes on with another provider: here it has ended."""

@final
class Metrics:
    """Counters and histograms by (route, provider, model, status), as label ids, bounded; recorded once an exchange.

    What finds no room among some 2,000 series is counted in one with "other" for labels and status 0."""

    def __new__(cls, segment: Segment) -> Metrics: ...
    def observe(
        self, route: int, provider: int, model: int, status: int, outcome: int, duration_ns: int, overhead_ns: int,
        first_byte_ns: int, bytes_in: int, bytes_out: int, tokens_in: int, tokens_out: int,
    ) -> None:  # fmt: skip
        """Add one exchange. `outcome` is an `OUTCOME_*`; `first_byte_ns` 0 when there was none; negative counts are 0."""
    def collect(self) -> list[Series]:
        """Every series that was ever observed."""

@final
class Series:
    """One row of metrics, as it stood when collected."""

    @property
    def route(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def outcomes(self) -> list[int]:
        """Counts by `OUTCOME_*`."""
    @property
    def duration(self) -> tuple[list[int], float]:
        """Counts per bucket of `DURATION_BOUNDS_S` (plus +Inf; not cumulative) and the sum in seconds."""
    @property
    def overhead(self) -> tuple[list[int], float]:
        """The same over `OVERHEAD_BOUNDS_S`."""
    @property
    def first_byte(self) -> tuple[list[int], float]:
        """The same over `DURATION_BOUNDS_S`."""
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def tokens_in(self) -> int: ...
    @property
    def tokens_out(self) -> int: ...
    @property
    def tokens_cached(self) -> int: ...
    @property
    def tokens_reasoning(self) -> int: ...
    @property
    def cost_micros(self) -> int: ...
    @property
    def retries(self) -> list[int]:
        """Further attempts, by reason (`balance.attempts_cy`)."""

DURATION_BOUNDS_S: Final[tuple[float, ...]]
OVERHEAD_BOUNDS_S: Final[tuple[float, ...]]
OUTCOME_COMPLETE: Final[int]
OUTCOME_REFUSED: Final[int]
OUTCOME_UPSTREAM_FAILED: Final[int]
OUTCOME_TRUNCATED: Final[int]
OUTCOME_CLIENT_GONE: Final[int]

@final
class AccessLog:
    """Formats one JSON line an exchange into a bounded buffer of this process; Python writes the blocks out."""

    def __new__(cls, segment: Segment, capacity_bytes: int = 1 << 20) -> AccessLog: ...
    def append(
        self, unix_ms: int, head: RequestHead | None, request_id: str, client: str, principal: str, route: int,
        provider: int, upstream: str, model: str, status: int, outcome: int, error: str, attempts: int,
        stream: bool, bytes_in: int, bytes_out: int, duration_ns: int, overhead_ns: int, first_byte_ns: int,
        tokens_in: int, tokens_out: int, tokens_cached: int,
    ) -> int:  # fmt: skip
        """Add a line, of at most 4,096 bytes (texts are cut); the bytes now waiting. A full buffer drops it and counts it. Empty
        strings, zero label ids, negative numbers and a `first_byte_ns` of 0 are left out. Members: docs/observability.md."""
    def drain(self) -> bytes:
        """Take all complete lines."""
    @property
    def dropped(self) -> int: ...

@final
class Ledger:
    """Metrics, usage, limits and the access line of an exchange in one crossing. Its numbers lie in `row`, which the caller
    fills.

    `row` is an array of 16 signed 64-bit cells: route, provider and model label, status, outcome, attempts, stream,
    bytes in, bytes out, unix time in ms, duration, overhead and time to the first byte in ns, the time now in ns
    (monotonic), whether an upstream was asked, and retries (eight counts of eight bits). An exchange recorded pays back
    to its provider's retry budget."""

    def __new__(cls, metrics: Metrics, access: AccessLog | None, row: Buffer) -> Ledger: ...
    def record(
        self, head: RequestHead | None, pump: BodyPump | None, document: bytes | ResponseHead | None,
        grant: Grant | None, price: Price | None, request_id: str, client: str, principal: str | None,
        tenant: str | None, upstream: str, model: str, error: str | None,
    ) -> int:  # fmt: skip
        """Record what the row says now, with the usage that `pump` saw, or that stands in `document` (a whole JSON
        body, or the head that it came behind), or else an estimate; settle the grant by it. The bytes of access lines now
        waiting."""
    @property
    def used(self) -> tuple[int, int]:
        """What the exchange recorded last came to: tokens, and micro-dollars."""

# ---------------------------------------------------------------- plain TCP connections

@final
class Sockets:
    """An epoll set for listeners and transports, nested in an event loop's: `loop.add_reader(sockets.fileno(), sockets.turn)`.

    `complain(what, error, whom)` hears of what a protocol raises, which ends its connection, and of what a listener runs
    out of. What is written during a turn leaves at its end; outside of one, at once.
    """

    def __new__(
        cls,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        complain: Callable[[str, Exception, object], object],
        /,
    ) -> Sockets: ...
    def fileno(self) -> int:
        """The set's descriptor: readable when something is to be done."""
    def turn(self) -> None:
        """Deal with what is ready: for each connection one read at most, for each listener 16 connections."""
    def listen(
        self, fd: int, factory: Callable[[], object], most: int, gate: Callable[[], bool] | None = None, /
    ) -> Listener:
        """Accept connections from a socket that listens, which is duplicated; a protocol of `factory` for each. `most`
        bytes are read at a time, 65,536 at the most. While `gate` says no, connections wait. OSError."""
    def adopt(self, fd: int, protocol: object, most: int, /) -> Transport:
        """Carry a connection: the socket, which does not block, is duplicated, and the protocol told. OSError."""
    def unsent(self) -> list[int]: ...  # bytes that wait, of each connection
    def lent(self) -> int: ...  # rooms that exchanges hold, with what was read
    def close(self) -> None:
        """End all that is open. The set's descriptor is closed when nobody holds it."""

@final
class Listener:
    """Accepts connections until it is closed. Out of descriptors, it leaves them waiting for a tenth of a second."""

    def close(self) -> None:
        """Accept no more. What waits in the socket's queue stays there for others that listen to it. Idempotent."""

@final
class Transport:
    """A plain TCP connection as asyncio's transports are, as far as our protocols use them.

    Of its protocol it calls what asyncio's do and, if it is there, `left`: the peer's FIN came while nothing is read.
    Once the peer takes nothing any more, writes go nowhere, and what it sent before is read to its end.
    """

    def write(self, data: bytes, /) -> None:
        """Send, in order; what the kernel does not take is kept, and sent when it does."""
    def writelines(self, pieces: tuple[bytes, bytes], /) -> None:
        """Send two pieces."""
    def write_eof(self) -> None:
        """Say that nothing follows, once all that was written is out."""
    def can_write_eof(self) -> bool:
        """True."""
    def pause_reading(self) -> None:
        """Read nothing for now. A peer that resets the connection is heard all the same; one that ends it is told of once,
        and once more when this is called again."""
    def resume_reading(self) -> None:
        """Undo pause_reading."""
    def is_reading(self) -> bool:
        """Not paused, not at its end, not closing."""
    def close(self) -> None:
        """Read no more, send what is left, and close."""
    def abort(self) -> None:
        """Close now, whatever is left. The protocol hears of it in a later step of the loop."""
    def reset(self) -> None:
        """Abort, and have the kernel send RST where it would send FIN."""
    def is_closing(self) -> bool:
        """After close and abort."""
    def offer(self, client: str, network: str, /) -> None:
        """Let the set's express have the next request, if it takes it, in place of the protocol; `client` is who asks, and
        `network` what limits count of that. The last requests that it handed over are a reason not to."""
    @property
    def rode_ns(self) -> int:
        """When the express last answered a request; now, while it has one; 0 for never."""
    def set_write_buffer_limits(self, high: int) -> None:
        """Above so many bytes that wait the protocol pauses; at a quarter of them it goes on."""
    def get_write_buffer_size(self) -> int:
        """Bytes that wait."""
    def set_protocol(self, protocol: object, /) -> None:
        """Whom to tell from now on."""
    def get_extra_info(self, name: str, default: object = None, /) -> object:
        """`peername` and `sockname`; the default for all else."""

@final
class Idle:
    """An upstream's connections that wait for work; the one that was used last goes first. And when it was last heard."""

    def __new__(cls, keepalive_ns: int, most: int, /) -> Idle: ...
    def push(self, connection: object, transport: Transport | None, since_ns: int, /) -> bool:
        """Have one wait; False when as many do. An express takes those with a transport, too."""
    def pop(self, now_ns: int, /) -> Any:
        """One that has not waited for `keepalive_ns`, with nothing left to be read or sent; None if there is none."""
    def stale(self, now_ns: int, /) -> list[Any]:
        """Take out all that have."""
    def remove(self, connection: object, /) -> None: ...
    def close(self) -> list[Any]: ...
    def hear(self, now_ns: int, /) -> int: ...  # bytes came from the upstream then, or later: when they last did
    def __len__(self) -> int: ...

@final
class Express:
    """Carries exchanges that are common from end to end past the protocols; budgateway.express says which, and how."""

    def __new__(
        cls, ids: RequestIds, ledger: Ledger, requests: Callable[[object], object], responses: Callable[[object], object],
        doubtful: Sequence[bytes], take_over: Callable[..., None], flush: Callable[[], None] | None, block_bytes: int,
        epoch_ns: int, quiet_ns: int, /,
    ) -> Express:  # fmt: skip
        """`requests` and `responses` make parsers that report to their argument (httptools); `take_over` is that of
        budgateway.express; `flush` is called when `block_bytes` of access lines wait; `quiet_ns` is for `sweep`."""
    def open(self, open: bool, /) -> None: ...  # take requests, or none, as before the first call
    def share(self, share: int, /) -> None:
        """How many exchanges one upstream may have in flight."""
    def follow(self, table: RouteTable, asks_who: bool, /) -> None:
        """Hand over what is on its way, forget what was learnt, and go by this table. `asks_who`: credentials count."""
    def forget(self) -> None: ...
    def learn(
        self, route: int, credential: bytes | None, model: str, labels: tuple[int, int, int], limits: LimitSet | None,
        price: Price | None, selector: Selector, without: int,
        targets: Sequence[tuple[Idle, RequestHeadWriter, str, bytes, bool, Redactor | None]],
        asker: tuple[str, str, str, str] | None, standing: object, until_ns: int, max_body_bytes: int,
        patience_ns: int, by_origin: bool, /,
    ) -> None:  # fmt: skip
        """What holds for all requests of a credential for a model on a route, until then: labels (route, provider, model),
        upstreams left out (a bit each), targets by the selector's index (label, header lines, and whether attempts are
        told last), and who asks: principal, whom limits by user and by key count, tenant. Who has waited for `patience_ns`
        is handed over, and not carried whose origin counts (`by_origin`) and who brings one."""
    def attach(self, sockets: Sockets, /) -> None: ...  # see requests before their connection's protocol does
    def sweep(self, now_ns: int, /) -> None: ...  # hand over who waits too long, or for who was silent for `quiet_ns`
    def hand_over(self) -> None: ...  # what is on its way, to `take_over`
    def close(self) -> None: ...
    def carried(self) -> int: ...  # to their end, so far
    def __len__(self) -> int: ...  # on their way

# ---------------------------------------------------------------- HTTP/1.1 heads

# Flags of a head.
KEEP_ALIVE: Final[int]
CHUNKED: Final[int]
EXPECT_CONTINUE: Final[int]
UPGRADE: Final[int]
HTTP_10: Final[int]
JSON: Final[int]  # content-type is application/json or +json
MULTIPART: Final[int]
EVENT_STREAM: Final[int]
ENCODED: Final[int]  # content-encoding other than identity
NO_BODY: Final[int]  # response: 1xx, 204, 304, or to HEAD
NAMED: Final[int]  # the request brings a request id of its own
TIMED: Final[int]  # the request has an x-request-timeout
DOUBTFUL: Final[int]  # of HeadReader: the response's body may be no answer
ASKING: Final[int]  # an OPTIONS request about the server (`*`), or a browser's preflight
TARGET_MODEL: Final[int]  # the request's path or query may name a model, besides the body
LOCATED: Final[int]  # of HeadReader: the response has a Location or Content-Location

FACTS: Final[int]  # cells that a HeadReader fills

@final
class HeadReader:
    """Scans heads as RequestHead.parse and ResponseHead.parse do, and writes what they say in numbers into `facts`, where
    compiled code reads them without a Python int: size, flags, content length (-1: none), status (0: a request), and when it
    was read (`time.monotonic_ns`).

    `facts` is a writable array of `FACTS` signed 64-bit cells; it changes with each head that is found. Its flags have
    DOUBTFUL of a response whose body is whole, and empty or with one of `doubtful` at its beginning."""

    def __new__(cls, facts: Buffer, doubtful: Sequence[bytes] = ..., /) -> HeadReader: ...
    def request(self, data: bytes, /) -> RequestHead | None:
        """The head that `data` begins with; None while its blank line has not arrived."""
    def response(self, data: bytes, to_head: bool, /) -> ResponseHead | None:
        """The same of a response; `to_head` when the request was HEAD."""

@final
class RequestIds:
    """Names for the requests that bring none: a prefix and a counter, 8 hexadecimal digits or more."""

    def __new__(cls, prefix: str) -> RequestIds:
        """ValueError for a prefix above 48 characters or with one that no request id has."""
    def take(self) -> str: ...

@final
class RequestHead:
    """A request's start line and headers, scanned once; keeps their bytes."""

    @staticmethod
    def parse(data: bytes, start: int = 0) -> RequestHead | None:
        """Scan the head that begins at `start`; None while its blank line has not arrived.

        Stricter than RFC 9112 where leniency is how requests are smuggled (RELIABILITY 3.8). Raises BadRequest and its
        kin (HeadTooLarge, TargetTooLong, ExpectationFailed).
        """
    @property
    def size(self) -> int:
        """Bytes from `start` to past the blank line."""
    @property
    def flags(self) -> int: ...
    @property
    def content_length(self) -> int:
        """-1 when there is none."""
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str:
        """Percent-decoding untouched, without the query."""
    @property
    def query(self) -> str: ...
    @property
    def host(self) -> str:
        """Lower case, without the port."""
    @property
    def request_id(self) -> str | None:
        """The client's x-request-id when it is 1 to 128 of [A-Za-z0-9._:-], else None."""
    def header(self, name: str) -> str | None:
        """The value of the first header of that (lower-case) name, latin-1."""
    def headers(self) -> list[tuple[str, str]]:
        """All of them, names lower case, in order."""

@final
class RequestHeadWriter:
    """Writes request heads for one upstream from what was parsed, never by copying lines: allow-listed headers only.

    Always allowed: accept, content-type, content-encoding, traceparent, tracestate, baggage,
    user-agent, idempotency-key; `allow` adds to them. Never, whatever `allow` says: host, connection, framing, cookies,
    authorization, keys, forwarded and x-forwarded-*.
    """

    def __new__(
        cls,
        host: str,
        prefix: str,
        strip: str,
        allow: Sequence[str],
        fixed: Sequence[tuple[str, str]],
    ) -> RequestHeadWriter:
        """`host` is the Host line's value; `prefix` goes before the path once `strip` was taken off it (a prefix ending
        in the path's own first segment, as in `/v1` + `/v1/chat`, is not doubled); `fixed` are sent as they are
        (authorization). ValueError for names or values that are not HTTP."""
    def write(self, head: RequestHead, request_id: str, content_length: int) -> bytes:
        """The head to send. `content_length`: -1 no body, -2 chunked, else the length. A method that usually has a body
        and has none gets `content-length: 0`."""
    def write_whole(self, head: RequestHead, request_id: str, body: bytes, /) -> bytes:
        """The head and all of its body, in one piece."""
    def relocate(self, head: ResponseHead, to_head: bool, /) -> ResponseHead:
        """An answer of this upstream's with the upstream's own address taken out of Location and Content-Location: paths as
        clients have to say them. The same head when there is nothing to change. Raises UpstreamProtocolError."""

@final
class ResponseHead:
    """A response's status line and headers: hostile input, scanned once."""

    @staticmethod
    def parse(data: bytes, start: int = 0, to_head: bool = False) -> ResponseHead | None:
        """As RequestHead.parse; `to_head` when the request was HEAD. Raises UpstreamProtocolError."""
    @property
    def size(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def content_length(self) -> int: ...
    def body(self) -> bytes | None:
        """The body, when the message was whole in the bytes that were scanned (which are then kept); else None, as for a
        message that has none."""
    def header(self, name: str) -> str | None: ...
    def headers(self) -> list[tuple[str, str]]: ...

@final
class ResponseHeadWriter:
    """Writes response heads for clients: everything but hop-by-hop, what `Connection` names, framing, and `drop`.

    Always dropped: server, set-cookie, alt-svc, strict-transport-security, openai-organization, openai-project,
    x-request-id (ours goes out instead), cf-*, via, and names of our own: x-budgateway-*, rate-limit-*.
    """

    def __new__(cls, drop: Sequence[str] = ...) -> ResponseHeadWriter: ...
    def write(
        self,
        head: ResponseHead,
        content_length: int,
        keep_alive: bool,
        request_id: str,
        lines: bytes,
        attempts: int,
        overhead_us: int,
        grant: Grant | None = None,
        redactor: Redactor | None = None,
        /,
    ) -> bytes:
        """The head to send. `content_length`: -1 no framing header (close-delimited or no body), -2 chunked, else the
        length. `lines` is complete header lines, each with its CRLF, trusted. Unless `attempts` is 0, says
        `x-budgateway-attempts` and `x-budgateway-overhead-us`. Writes `connection: close` unless keep_alive.
        `grant`: the client's limits, in place of what the upstream says of its own. What `redactor` finds is blotted
        out. ValueError for a malformed request id."""
    def write_whole(
        self,
        head: ResponseHead,
        keep_alive: bool,
        request_id: str,
        lines: bytes,
        attempts: int,
        overhead_us: int,
        grant: Grant | None = None,
        redactor: Redactor | None = None,
        /,
    ) -> bytes:
        """The head and the body that came behind it, in one piece; ValueError when `head.body()` is None."""

@final
class ChunkScanner:
    """Follows chunked framing to its end, with limits, so that the message's last byte is known.

    Limits: extensions 256 B a chunk and 16 KiB a message, trailers 8 KiB, chunk size 16 hex digits at most. Trailers
    that frame, route or authenticate (content-length, transfer-encoding, host, connection, authorization, cookie) are
    violations. An error is final; after the end every further `feed` answers `start`.
    """

    def __new__(cls, upstream: bool = False) -> ChunkScanner:
        """`upstream`: violations are UpstreamProtocolError, else BadRequest."""
    def feed(self, data: bytes, start: int = 0) -> int:
        """The offset just past the message when it ends inside `data`, else -1 (all of it belongs to the message)."""
    def take(self) -> bytes:
        """The body's bytes of what was fed since the last call, without their framing."""

# ---------------------------------------------------------------- bodies

@final
class BodyDecoder:
    """Decodes a request body that has a content coding, piece by piece and within bounds.

    Bounds: what was asked for, and 200 times what arrived above the first MiB. A window of zstd is 8 MiB at most. Bytes
    behind the end are refused; frames of zstd may follow each other.
    """

    def __new__(cls, coding: str, limit: int, /) -> BodyDecoder:
        """For a coding by its name: gzip, deflate, br or zstd. UnsupportedCoding for another, Overloaded when 32 with a
        window of megabytes (br, zstd) are in use in this process."""
    def feed(self, piece: bytes, /) -> bytes:
        """What a piece decodes to. BadRequest when it is not of this coding, RequestTooLarge above the bounds."""
    def finish(self) -> None:
        """BadRequest when the body was not whole."""

@final
class Peeker:
    """Finds wanted top-level members of a JSON object in one pass, without building a document."""

    def __new__(cls, fields: Sequence[str] = ...) -> Peeker:
        """Default fields: model, stream, user, max_tokens, max_completion_tokens, stream_options. ValueError for more
        than 16, or for one twice."""
    def peek(self, body: bytes) -> BodyPeek:
        """Validate all of `body` as JSON (RFC 8259, UTF-8, depth <= 128) and note the spans.

        Raises BadRequest: not JSON (says at which byte), or what two readers would differ about: a wanted member twice, or
        one whose name differs from a wanted one in case alone, or a model with control characters or lone surrogates.
        A body that is JSON but no object has no fields.
        """

@final
class BodyPeek:
    """Where the wanted members are in one body, which it keeps alive."""

    @property
    def model(self) -> str | None:
        """The model's name, unescaped; None when absent or no string."""
    @property
    def stream(self) -> bool:
        """True for a literal `true`."""
    @property
    def user(self) -> str | None: ...
    @property
    def max_tokens(self) -> int | None:
        """max_completion_tokens, else max_tokens, when a non-negative integer; 2**63 - 1 at most."""
    @property
    def asking_options(self) -> bytes | None:
        """What `stream_options` must say (JSON text, for `rewrite`) for a stream to tell its usage at its end; None when that
        is to stay as it is: it asks already, or what it means is the upstream's to say."""
    def span(self, field: str) -> tuple[int, int] | None:
        """Start and end of a member's value."""
    def rewrite(self, edits: Sequence[tuple[str, bytes | None]]) -> bytes:
        """A body with members replaced, inserted (when absent) or deleted (None) by splicing; the rest byte for byte.

        Values are JSON text, trusted; of two edits of a field the later counts; inserted members come first.
        ValueError for a field that is not a wanted one, or when the body is no object.
        """

@final
class UsageScanner:
    """Looks on while a response passes: event borders, the terminator, usage. Never changes a byte, never raises."""

    def __new__(cls, sse: bool) -> UsageScanner:
        """`sse`: an event stream; else one JSON document."""
    def feed(self, data: bytes) -> int:
        """Look at the next bytes, however cut; the events completed so far (SSE)."""
    @property
    def usage(self) -> tuple[int, int, int, int] | None:
        """(in, out, cached, reasoning) from the last usage object seen: OpenAI chat, completions, responses and
        embeddings, Anthropic messages (message_start and message_delta merged)."""
    @property
    def done(self) -> bool:
        """A terminator was seen: `[DONE]`, `message_stop`, `response.completed` (and its failed/incomplete kin),
        Cohere's `message-end`; of a document, its closing bracket."""
    @property
    def error(self) -> bool:
        """An error event (by name, type, `error` member or `response.failed`) was seen; of a document, an `error` member."""

@final
class ModelRewriter:
    """Gives the client the model name it asked for: replaces the `model` member of responses as they pass.

    In SSE the `model` of each event's object, or of its `message` or `response` member; in JSON the same of the document.
    """

    def __new__(cls, sse: bool, model: str) -> ModelRewriter: ...
    def feed(self, data: bytes) -> bytes:
        """What may go out now. Holds back no more than one event (or one JSON token), 1 MiB at most; what exceeds that
        passes unchanged."""
    def finish(self) -> bytes:
        """What was still held."""

SCAN_DOCUMENT: Final[int]
SCAN_EVENTS: Final[int]

# An event that says something (comments, pings, empty data and `[DONE]` do not).
SEEN_EVENT: Final[int]
# The first such was an error: by name, by type, by its `error` member, or `"object": "error"`.
SEEN_ERROR_FIRST: Final[int]
# The first such was no JSON object.
SEEN_OTHER_FIRST: Final[int]
# A terminator (see UsageScanner.done), or a `finish_reason` that is not null.
SEEN_END: Final[int]
SEEN_ERROR: Final[int]
# The first was of an API whose streams say where they end: OpenAI's chat, completions or responses, Anthropic's messages.
SEEN_PROMISE: Final[int]
SEEN_CONTENT: Final[int]

@final
class Redactor:
    """Finds secrets in what upstreams say, plain or as JSON and URLs spell them; those below 8 bytes are let be."""

    def __new__(cls, secrets: Sequence[str], /) -> Redactor: ...
    def blot(self, text: bytes, /) -> bytes:
        """The text with an asterisk for each byte of a secret."""

@final
class BodyPump:
    """A response's body from the upstream's framing into the client's, its usage read and its model renamed on the way."""

    def __new__(
        cls,
        unframe: bool,
        frame: bool,
        scan: int,
        model: str | None = None,
        keeps_usage: bool = False,
        redactor: Redactor | None = None,
        only_errors: bool = False,
        /,
    ) -> BodyPump:
        """`unframe`: the upstream's body is chunked; `frame`: the client's is to be. `scan`: 0 or a `SCAN_*`. `model`:
        the name to give, as ModelRewriter does. `keeps_usage`: events of a stream with a `usage` object, no choice and no
        error are read and do not leave; nor are they what it begins with. `redactor`: secrets are blotted out; with
        `only_errors` those in errors of an event stream, and behind them."""
    def feed(self, data: bytes, /) -> bytes | None:
        """What goes out for the next bytes of the body, framed; None for nothing. Where the chunked framing is broken or
        exceeds its limits (see ChunkScanner), what came before: `fault` then says why. Of an event stream only whole
        events leave; one above 1 MiB leaves as it comes."""
    def finish(self) -> bytes:
        """What is still to be sent when the upstream's body is whole: what was held back, and the last chunk."""
    @property
    def end(self) -> int:
        """Where the body ends in the bytes fed last, when its chunked framing says so; else -1, and -2 where that is
        broken."""
    @property
    def fault(self) -> str | None:
        """What is wrong with the chunked framing. Nothing of the body leaves any more."""
    @property
    def between_events(self) -> bool:
        """What has left ends with a whole event: another may be put there. False where no event stream is scanned, and
        inside an event that is too long to be held."""
    @property
    def seen(self) -> int:
        """What the stream has shown, as `SEEN_*` bits; of a document `SEEN_END` and `SEEN_ERROR` alone."""
    @property
    def passed(self) -> int:
        """Bytes of body sent so far, without framing."""

@final
class FrameScanner:
    """Follows one direction of a WebSocket (RFC 6455 5): headers and close frames are checked before they go on, payloads
    pass unread, and no message is kept."""

    def __new__(cls, masked: bool, compressed: bool, max_message_bytes: int, /) -> FrameScanner:
        """`masked`: a client sends. `compressed`: permessage-deflate was agreed upon. The limit is of payload as it is
        sent."""
    def feed(self, data: bytes, /) -> bytes | None:
        """What may go on: `data` itself when that is all of it, None for nothing. Nothing behind a violation or a close
        frame ever does; the violating frame does not either."""
    @property
    def ended(self) -> int:
        """0 while frames pass. Else the code of the close frame that passed (1005 when it had none), or what to tell a
        sender that broke the protocol: then `error` is not None."""
    @property
    def error(self) -> str | None:
        """How the sender broke the protocol."""
    @property
    def between_frames(self) -> bool:
        """Another frame may be put behind what has passed."""
    @property
    def frames(self) -> int:
        """Frames begun, control frames among them."""

# ---------------------------------------------------------------- routing

@final
class RouteTable:
    """Immutable: which route answers (host, path, method, model, headers). Specific beats general, then first wins.

    `rules`: (host, path, methods, models, headers, priority), empties match everything. Hosts: exact or `*.suffix`.
    Paths: literal, `{name}` for one segment, a final `*` or `{name:path}` for the rest. Models: exact, `prefix*`, glob
    with `*` and `?`. Headers: (lower-case name, value or glob). Order: priority (highest first), host, path (literal > parameter >
    wildcard, segment by segment), methods, model (exact > longer prefix > glob > any), headers (more first), place.
    Paths are compared percent-decoded (an encoded slash stays), so that no spelling of a path escapes its rule; a rest
    may be empty (`/v1/*` answers `/v1/`, not `/v1`).
    ValueError for a pattern that cannot be (says which rule and why).
    """

    def __new__(
        cls,
        rules: Sequence[tuple[str, str, Sequence[str], Sequence[str], Sequence[tuple[str, str]], int]],
        own_from: int = ...,
    ) -> RouteTable: ...
    def __len__(self) -> int: ...
    def find(self, head: RequestHead, model: str | None) -> int:
        """The index of the rule that answers; -1 no path matches; -2 not this method; -3 not this model or headers;
        -4 another spelling of the path, which a server behind the rule may take for the same one, has another rule. From
        `own_from` on rules have no server behind them."""
    def lookup(
        self, method: str, path: str, host: str = "", model: str | None = None, headers: Sequence[tuple[str, str]] = ...
    ) -> int:
        """The same from loose parts, whatever other spellings there are."""
    def candidates(self, method: str, path: str, host: str, /) -> list[int]:
        """The rules that may answer when models and headers are not known, in the order of preference."""
    def params(self, index: int, path: str) -> dict[str, str]:
        """The path's parameters under that rule, percent-decoded; a final `*` is called `*`. Empty when it does not match."""
    def explain(
        self, method: str, path: str, host: str = "", model: str | None = None, headers: Sequence[tuple[str, str]] = ...
    ) -> list[tuple[int, bool, str]]:
        """(rule, matched, why) in the order of preference: the first matched one answers."""
