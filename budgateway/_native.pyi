"""The compiled core: routing, limits, selection, scanning and rewriting of bytes.

Conventions: time is an argument, in monotonic nanoseconds; bytes are borrowed for the call; "no match" and "not yet"
are None or -1, never an exception. A malformed message raises a class of `budgateway.errors`.
"""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, final

from typing_extensions import Buffer

ABI: Final[int]
BUILD_PROFILE: Final[str]

# ---------------------------------------------------------------- hot state: one shared mapping

@final
class Segment:
    """The shared mapping that holds hot state: labels, upstream slots, buckets, metrics, a row for each worker.

    Created once by the supervisor (`Segment(workers)`, 1 to 64), attached by workers from the inherited descriptor.
    There is room for 2,047 labels and 1,024 upstreams. Names above 118 bytes are cut and end in `~` and a hash of the
    whole.
    """

    def __new__(cls, workers: int = 1) -> Segment: ...
    @staticmethod
    def attach(fd: int) -> Segment:
        """Map the segment behind `fd`, which is duplicated. Raises ValueError when it is not a segment of this version,
        OSError when it is no descriptor."""
    @property
    def fd(self) -> int:
        """The descriptor to pass on (`pass_fds`); closed with the segment."""
    @property
    def size(self) -> int:
        """Number of mapped bytes (only touched pages are resident)."""
    @property
    def workers(self) -> int:
        """Number of rows."""
    def intern(self, name: str) -> int:
        """Return the id of a label, the same in every process; 0 ("other") for "" and when the table is full.
        Idempotent."""
    def intern_model(self, name: str) -> int:
        """Return the id of a model's name likewise. A label of the same name has another id."""
    def models(self) -> list[tuple[str, int]]:
        """Return the models that have an id, with it."""
    def label(self, id: int) -> str:
        """Return the name of an id; "other" for 0 and for unknown ids."""
    def upstream(self, url: str) -> int:
        """Return the slot of an upstream, by URL; kept across reloads. Raises ValueError when all slots are taken."""
    def remember(self, id: str, upstream: int, /) -> None:
        """Remember that an upstream holds what an id stands for; some 64,000 ids are, the oldest are forgotten. Raises
        ValueError."""
    def holder(self, id: str, /) -> int | None:
        """Return the slot of the upstream that holds what an id stands for, as far as that is remembered."""
    def judge(self, upstream: int, healthy: bool | None, now_ns: int, *, silent: bool = False) -> None:
        """Set a probe's result for the upstream in this slot; `silent` when traffic gets no answer either. None: the
        upstream is not probed any more. Raises ValueError for an unknown slot, as do all methods below."""
    def welcome(self, upstream: int, now_ns: int) -> None:
        """Begin the slow start of an upstream that is added to others."""
    def suspect(self, upstream: int, now_ns: int) -> None:
        """Mark the upstream as suspect: traffic gets no answer from it."""
    def take_suspicion(self, upstream: int) -> int:
        """Return and clear the time of the first `suspect` since the last call, in monotonic nanoseconds; 0 if there
        was none."""
    def signal(self, upstream: int, running: int, waiting: int, kv_usage: float, now_ns: int) -> None:
        """Set the load its engine reports: running and waiting requests, share of the KV cache in use (0 to 1). A
        `now_ns` of 0 clears it."""
    def set_models(self, upstream: int, models: Sequence[str]) -> None:
        """Set the models the upstream lists; none, or more than 255: unknown."""
    @property
    def models_version(self) -> int:
        """A version that rises with every `set_models`."""
    today: int  # the current day for budgets, counted from 1970, in all processes; 0 until it is set
    def save_limits(self, clocks: tuple[int, int, int, int, int, int]) -> bytes:
        """Serialize budgets, and rates that take more than ten seconds to refill, for `load_limits` of a later
        segment. Contains the secret hash key: its reader could choose keys that collide. `clocks` are
        `limits.calendar.Clocks`."""
    def load_limits(self, state: bytes, clocks: tuple[int, int, int, int, int, int]) -> tuple[int, int]:
        """Restore a saved state, before a `LimitSet` is created. Returns the seconds by which the wall clock was set,
        and `behind_s`. Raises ValueError when it is not one."""
    def carry_budgets(self, from_day: int, to_day: int) -> None:
        """Move spent budgets after the clock was set: what was spent in the periods of `from_day` counts in those of
        `to_day`."""
    def count_limits(self, changes: bytes, now_ns: int, today: int, guest: int | None = None) -> None:
        """Add the counts of another gateway's `LimitLedger`; the first time before a `LimitSet` is created. Its
        exchanges in flight count in the row `guest`. Raises ValueError when `changes` is no ledger's."""
    def clear_worker(self, worker: int) -> None:
        """Zero the row of a worker that died: its in-flight counts and gauges."""
    def gauge(self, worker: int, gauge: int) -> int:
        """Return a worker's gauge (`GAUGE_*`)."""
    def add(self, worker: int, gauge: int, delta: int) -> None:
        """Add to a gauge of a worker's row."""
    def enter(self, worker: int, gauge: int, most: int) -> bool:
        """Add one to a worker's gauge, unless that exceeds `most` in all rows together; return whether it was added."""

GAUGE_CONNECTIONS: Final[int]
GAUGE_EXCHANGES: Final[int]
GAUGE_POOL_IDLE: Final[int]
GAUGE_POOL_BUSY: Final[int]
GAUGE_TICK: Final[int]  # time of the worker's last loop iteration, in monotonic nanoseconds
GAUGE_SOCKETS: Final[int]
GAUGE_SOCKET_FRAMES_IN: Final[int]  # WebSocket frames and bytes since the worker's start: from clients, and to them
GAUGE_SOCKET_FRAMES_OUT: Final[int]
GAUGE_SOCKET_BYTES_IN: Final[int]
GAUGE_SOCKET_BYTES_OUT: Final[int]
GAUGE_STORE_AWAY: Final[int]  # Redis: 1 while it is down; the next three count since the worker's start
GAUGE_STORE_CALLS: Final[int]
GAUGE_STORE_FALLBACKS: Final[int]
GAUGE_STORE_LOST: Final[int]
GAUGE_MIRRORED: Final[int]  # mirrored requests since the worker's start: answered, failed, never sent
GAUGE_MIRRORS_FAILED: Final[int]
GAUGE_MIRRORS_SKIPPED: Final[int]
GAUGE_LINES_LOST: Final[int]  # access lines lost since the worker's start

@final
class RateLimit:
    """GCRA buckets by key for one limit (a scope name, a rate and a burst), in the segment: shared by all workers.

    Limits equal in all three are one limit, in every process; others share nothing, so after a change of rate, keys
    begin with full buckets. All limits together have room for some 90,000 keys in use; when it is used up, the key
    whose bucket would be full first is evicted: that admits more, never less. Raises ValueError for a rate that is not
    positive, a burst below 1, or a bucket that takes decades to fill.
    """

    def __new__(cls, segment: Segment, scope: str, per_minute: float, burst: int) -> RateLimit: ...
    def take(self, key: str | bytes, cost: int, now_ns: int) -> int:
        """Debit `cost`; return the rest (>= 0), or minus the nanoseconds to wait (< 0), and then nothing is debited.

        A cost above the burst never fits; its wait is the time of a whole refill. Text is the same key as its UTF-8.
        """

@final
class LimitLedger:
    """The counts of a segment's limits, for a gateway that takes over (`Segment.count_limits`)."""

    def __new__(cls, segment: Segment) -> LimitLedger: ...
    def changes(self, now_ns: int, today: int) -> bytes | None:
        """Return the counts since the last call, at first all of them; None when there are none. Contains the secret
        that keys are hashed with."""

BY_USER: Final[int]  # the principal; the client's address for anonymous clients
BY_KEY: Final[int]
BY_TENANT: Final[int]
BY_MODEL: Final[int]  # the client's model name
BY_ROUTE: Final[int]
BY_ADDRESS: Final[int]

@final
class Price:
    """A model's prices, in dollars per million tokens; ValueError for an invalid price.

    `max_output_tokens`: the model's longest output; 0 when unknown.
    """

    def __new__(cls, input: float, cached: float, output: float, *, max_output_tokens: int = 0) -> Price: ...

@final
class LimitSet:
    """All limits that apply to one kind of exchange, decided together: everything is taken, or nothing.

    `limits`: (name, `BY_*` or'ed together, kind, amount, period, burst), 64 at most. `BY_*` of 0 is one counter for
    all; exchanges that lack an attribute a limit counts by are not counted by it. Kinds: "requests" and "tokens"
    (`amount` a "minute", "hour" or "day", `burst` at once: GCRA), "concurrency" (`amount` at a time; period and burst
    are ignored) and "spend" (`amount` micro-dollars a "day", "week" or "month" of the calendar, UTC). Limits of the
    same name, subject and kind with the same rate are one limit, in every process and set; a changed rate begins with
    full buckets, a changed concurrency or budget keeps its usage. Reservations never exceed a limit, not even for a
    moment; a refused request consumes nothing.

    `output_tokens`: the assumed length of an answer when its request sets no maximum. Raises ValueError for an invalid
    limit.
    """

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
    ) -> Reservation | Refusal:
        """Take one request, its estimated tokens, a lease, and its estimated cost. Empty text means that the attribute
        is absent. Tokens are estimated when there is a model: a quarter of `body_bytes`, plus `max_tokens` of the body.
        `today` is days since 1970, UTC."""
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
    ) -> Reservation:
        """Count an exchange that is decided elsewhere: debit the rates as far as they reach, and refuse nothing."""
    def refusal(self, limit: int, wait_ns: int, never: bool, left: int, reset_ns: int) -> Refusal:
        """Return a refusal that was decided elsewhere, for the limit at that index."""

@final
class Reservation:
    """An exchange's holdings of its limits, until settled. Dropped unsettled, it returns all but the request."""

    def settle(self, tokens: int, micros: int, now_ns: int) -> bool:
        """End the reservation: release the lease, debit the actual tokens and cost. Returns False when it had ended
        before."""
    def debits(self) -> list[tuple[int, int, int]]:
        """Return the debits by limit: its index, the amount, and the day on which a budget's period ends (since
        1970)."""
    def undo(self) -> None:
        """Return everything, the request too."""
    def set_state(self, requests: tuple[int, int, int] | None, tokens: tuple[int, int, int] | None) -> None:
        """Set the limits' state over all hosts, for `lines`, in the form of `requests` and `tokens`. Only the first
        call counts."""
    @property
    def requests(self) -> tuple[int, int, int] | None:
        """The limit of requests with the least left: (index, left, nanoseconds until nothing is used), or None."""
    @property
    def tokens(self) -> tuple[int, int, int] | None:
        """The same for limits of tokens."""
    def lines(self) -> bytes:
        """Return header lines that report the limits to a client."""

@final
class Refusal:
    """The reason why a decision took nothing. If several limits refuse, the one with the longest wait."""

    @property
    def limit(self) -> int:
        """Its index among the limits."""
    @property
    def wait_ns(self) -> int:
        """Nanoseconds until the same request may fit; 0 when unknown (concurrency). For a budget: whole days, from
        midnight."""
    @property
    def never(self) -> bool:
        """True when the limit is below the requested amount, so that the request never fits."""
    @property
    def left(self) -> int: ...
    def lines(self, unit: str) -> bytes:
        """Return header lines for limits of "requests" or "tokens"."""

@final
class UsageTable:
    """Usage since the gateway's start, by principal, model and route; bounded, in the segment."""

    def __new__(cls, segment: Segment) -> UsageTable: ...
    def collect(self) -> list[tuple[str | None, str, str, str, int, int, int, int, int, int, int]]:
        """Return (principal, tenant, model, route, requests, tokens in, out, cached, reasoning, micro-dollars,
        exchanges with estimated tokens). The principal "" is anonymous, None stands for all beyond the table's size;
        the model "other" for any without a label."""

POLICIES: Final[MappingProxyType[str, tuple[str, ...]]]
"""The balancing policies, each with its needs: "turns", "load_reports", "request" and "outcome"."""

@final
class Selector:
    """Picks an upstream: filter (breaker, drained, tried) -> score by policy -> random tie-break; counts in flight.

    `upstreams` are (slot, weight), 256 at most; results are indices into that list. Weight 0 takes no traffic. `policy`
    is one of POLICIES. All workers take turns together. `seed` feeds the random choices. With `pins`, names of the
    first upstreams, requests with equal pins go to one upstream, by weighted rendezvous hashing of the names: the same
    one on every worker and host while it is healthy and has room, else the pin's next one.

    A zero `failure_threshold` switches the breaker off; else that many failures in a row open it. After `open_ns` it
    lets `half_open_max_calls` through: it closes when all succeed, opens again when one fails, and lets as many more
    through when they have no result within `open_ns`. With a `failure_ratio` it also opens when that share of at least
    `minimum_calls` within `window_ns` failed. `max_in_flight`, one number for each upstream, bounds its exchanges from
    all workers together; 0 is no bound.

    `eject_after` failures in a row (0: never) eject an upstream for `eject_ns` times its number of ejections, up to
    `eject_max_ns`, plus or minus 15 %. At most `eject_percent` of the list are ejected at a time, and never the last
    one: further failing upstreams are set aside for as long, and used only when no other answers. When fewer than
    `panic_percent` are available, resting and unhealthy ones are used, too, but those that fail traffic only when no
    other answers; open breakers stay open. An upstream that returns from any of these gets its share gradually within
    `slow_start_ns`.
    """

    def __new__(
        cls, segment: Segment, worker: int, policy: str, upstreams: Sequence[tuple[int, int]], *, seed: int = 0,
        failure_threshold: int = 0, open_ns: int = 60_000_000_000, half_open_max_calls: int = 3,
        max_in_flight: Sequence[int] = ..., failure_ratio: float = 0.0, minimum_calls: int = 20,
        window_ns: int = 30_000_000_000, eject_after: int = 0, eject_ns: int = 10_000_000_000,
        eject_max_ns: int = 300_000_000_000, eject_percent: int = 50, panic_percent: int = 50,
        slow_start_ns: int = 0, pins: Sequence[str] | None = None,
    ) -> Selector: ...  # fmt: skip
    @property
    def needs(self) -> tuple[str, ...]:
        """The policy's needs, as in POLICIES. With "request" or "outcome", use `pick_for` and `complete`."""
    @property
    def pins(self) -> bool:
        """True when it was made with `pins`."""
    def pick(self, now_ns: int, tried: int = 0) -> int:
        """Return the chosen index and count it as in flight; -1 when no upstream is left, -2 when all that are left are
        full. Bit i of `tried` excludes index i; bits from 64 on have no effect."""
    def pick_for(
        self, now_ns: int, tried: int, pin: str | None, key: str | None, model: str, prompt_bytes: int, streams: bool
    ) -> int:
        """Pick for a request, by its pin and by what the policy needs to know: `key` is the principal or network,
        `prompt_bytes` the size of the body. The result's low 16 bits are the index, those above are the policy's note
        about the request; negative like `pick`."""
    def release(self, index: int, verdict: int, now_ns: int) -> None:
        """End what `pick` began: in flight one lower, and the verdict (`VERDICT_*`) recorded in the breaker."""
    def complete(
        self, index: int, verdict: int, now_ns: int, note: int, asked_ns: int, first_byte_ns: int,
        answer: BodyPump | bytes | ResponseHead | None,
    ) -> None:  # fmt: skip
        """End what `pick_for` began, with the outcome that the policy observes: the times of the request and of the
        response's first byte (0: none came), and the tokens reported in the response."""
    def begun(self, index: int, note: int, now_ns: int) -> None:
        """Tell the policy that a stream has begun."""
    def in_flight(self, index: int) -> int:
        """Return the exchanges in flight, of all workers together."""
    def state(self, index: int, now_ns: int) -> str:
        """Return closed, open, half_open or drained."""
    def drain(self, index: int, drained: bool, now_ns: int = 0) -> None:
        """Drain an upstream in every worker, or return it to service: slowly, if `now_ns` is set."""
    def rest(self, index: int, for_ns: int, now_ns: int) -> bool:
        """Take an upstream out for a while at its own request; return whether it is out now. It is not without
        `eject_after`, when too many are out, or when it is the last one."""
    def answered(self, index: int, now_ns: int) -> bool:
        """Record that the upstream begins to answer: with a half-open breaker that is a success at once, because a
        stream may take minutes. Returns whether it counted; then `release` must get a neutral verdict for a success."""
    def suspect(self, index: int, now_ns: int) -> None:
        """Call `Segment.suspect` for an upstream."""
    def lacking(self, model: str) -> int:
        """Return a mask for `tried`: those of the first 64 upstreams that list their models without this one. 0 when
        all lack it."""
    def look(self, index: int, now_ns: int) -> UpstreamHealth:
        """Return an upstream's health."""

@final
class UpstreamHealth:
    """A snapshot of an upstream's health. `breaker` is closed, open or half_open; `window` holds the recent calls and
    failures for its ratio. `out_until_ns`: end of the ejection (0: none), `asked` when the upstream requested it,
    `aside` when it is skipped only while another one answers. Failures in a row and ejections in total; the probe's
    result; the share of its weight in effect; running, waiting, KV usage, and the time of that report."""

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
class Split:
    """Division of a route's traffic over its destinations: by weight, after the canary's share."""

    def __new__(
        cls, destinations: Sequence[tuple[str, int]], canary: tuple[int, float] | None = None, *, seed: int = 0
    ) -> Split:
        """Names and weights, 64 at most; `canary` is an index and its share, 0 to 1, of everything: the others divide
        the rest."""
    def pick(self, key: str | None, excluded: int = 0) -> int:
        """Return the destination of a key, always the same; without a key the next in turn. -1 when all are excluded
        (bit i of `excluded` is index i)."""

VERDICT_NEUTRAL: Final[int]
VERDICT_SUCCESS: Final[int]
VERDICT_FAILURE: Final[int]

@final
class WaitingCount:
    """The number of requests that wait for a lease in this worker: the queue sets it, and the fast path looks."""

    def __new__(cls) -> WaitingCount: ...
    def set(self, count: int, /) -> None: ...
    def get(self) -> int: ...

@final
class Queue:
    """Exchanges that wait for a free upstream, by name, visible to all workers.

    Exchanges wait in their worker, which counts them in and out and reports since when its first one waits. Times are
    monotonic nanoseconds. There is room for 256 queues.
    """

    def __new__(cls, segment: Segment, worker: int, name: str) -> Queue:
        """Raises ValueError when all queues are taken."""
    def join(self, limit: int) -> bool:
        """Count one in; False (and counted as refused) when `limit` wait already, in all workers together."""
    def leave(self, ending: int, waited_ns: int) -> None:
        """Count one out: `WAIT_SERVED` (an upstream had room), `WAIT_TIMED_OUT` or `WAIT_GONE`."""
    def say_first(self, since_ns: int) -> None:
        """Set since when this worker's first exchange waits; 0 when none does."""
    def elder(self, since_ns: int, now_ns: int) -> int:
        """Return the row of the other worker whose first exchange has waited longest, if longer than one that came at
        `since_ns` (0: this worker has none); else -1. Workers whose `GAUGE_TICK` is over a second old are skipped."""
    @property
    def depth(self) -> int:
        """Number of waiting exchanges, in all workers together."""
    def add_sibling(self) -> None: ...  # tell that its provider has more queues, for other sets of its upstreams
    @staticmethod
    def collect(segment: Segment) -> list[tuple[str, int, int, int, int, int, int, float]]:
        """Return every queue: name, waiting now; since the start: how many waited, were served, timed out, left, were
        refused because the queue was full; and the total seconds that the served ones waited."""

WAIT_SERVED: Final[int]
WAIT_TIMED_OUT: Final[int]
WAIT_GONE: Final[int]

@final
class LatencyHistogram:
    """Quantiles of recent durations: about a thousand values count, older ones less and less."""

    def __new__(cls) -> LatencyHistogram: ...
    def record(self, ns: int) -> None:
        """Record a duration."""
    def quantile(self, percent: int) -> int:
        """Return the duration that this share did not exceed, in nanoseconds, at most an eighth too high; -1 before 32
        values."""

@final
class RetryBudget:
    """A provider's retry budget: `percent` of its exchanges plus `reserve`, over all workers. Every exchange that ends
    (see Ledger) pays back; nothing above the reserve is saved."""

    def __new__(cls, segment: Segment, provider: int, percent: int = 20, reserve: int = 3) -> RetryBudget:
        """`provider` is the label used in the ledger."""
    def take(self) -> bool:
        """Take a retry from the budget; False when none is left."""
    def give_back(self) -> None:
        """Return a retry that was not made."""
    def repay(self) -> None:
        """Pay back for an exchange that goes on with another provider, because it has ended for this one."""

@final
class Metrics:
    """Counters by (route, provider, model, status), times and sizes by (route, provider, model), overhead by route, as
    label ids, bounded; a `Ledger` adds each exchange.

    Beyond some 2,000 series, exchanges are counted in one with "other" for labels and status 0; beyond some 1,000 rows
    of times, in one with "other" for labels.
    """

    def __new__(cls, segment: Segment) -> Metrics: ...
    def collect(self) -> list[Series]:
        """Return every series observed so far."""
    def times(self) -> list[Times]:
        """Return the times and sizes of the exchanges that ended well: complete, with a status below 400."""
    def refusals(self) -> list[tuple[str, str, int]]:
        """Return the number of requests that the gateway refused, by route and code of the error."""
    def overheads(self) -> list[tuple[str, tuple[list[int], float]]]:
        """Return each route's overhead: counts per bucket of `OVERHEAD_BOUNDS_S`, and the sum in seconds."""
    def render(self) -> bytes:
        """Return all of it in Prometheus' text format. Releases the GIL."""

@final
class Series:
    """One row of metrics, a snapshot."""

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

@final
class Times:
    """Times and sizes of the exchanges of one route, provider and model that ended well, a snapshot. Of each histogram
    the counts per bucket (the last one for values above all bounds; not cumulative) and the sum, of times in seconds."""

    @property
    def route(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def plain(self) -> tuple[list[int], float]:
        """Durations of plain answers, over `DURATION_BOUNDS_S`."""
    @property
    def stream(self) -> tuple[list[int], float]:
        """Durations of streams, over `DURATION_BOUNDS_S`."""
    @property
    def first_byte(self) -> tuple[list[int], float]:
        """Times to the first byte of plain answers, over `FIRST_BOUNDS_S`."""
    @property
    def first_token(self) -> tuple[list[int], float]:
        """Times to the first token of streams, over `FIRST_BOUNDS_S`."""
    @property
    def per_token(self) -> tuple[list[int], float]:
        """Times per output token of streams, over `PER_TOKEN_BOUNDS_S`."""
    @property
    def tokens(self) -> list[tuple[list[int], int]]:
        """Tokens in and tokens out, over `TOKEN_BOUNDS`."""

DURATION_BOUNDS_S: Final[tuple[float, ...]]
FIRST_BOUNDS_S: Final[tuple[float, ...]]
OVERHEAD_BOUNDS_S: Final[tuple[float, ...]]
PER_TOKEN_BOUNDS_S: Final[tuple[float, ...]]
TOKEN_BOUNDS: Final[tuple[int, ...]]
OUTCOME_COMPLETE: Final[int]
OUTCOME_REFUSED: Final[int]
OUTCOME_UPSTREAM_FAILED: Final[int]
OUTCOME_TRUNCATED: Final[int]
OUTCOME_CLIENT_GONE: Final[int]

@final
class AccessLog:
    """The access lines of this process: a bounded buffer that a `Ledger` fills with one JSON line per exchange, and
    Python writes out. A line has at most 4,096 bytes (texts are cut); with a full buffer it is dropped and counted.
    Empty strings, zero label ids and what is unknown are left out. Members: docs/observability.md."""

    def __new__(cls, segment: Segment, capacity_bytes: int = 1 << 20) -> AccessLog: ...
    def drain(self) -> bytes:
        """Take all complete lines."""
    @property
    def dropped(self) -> int: ...

@final
class Tracer:
    """Decides which exchanges of this process are traced, and buffers a record of each one that is kept
    (`budgateway.observe.trace_record` reads them). `seed`: two random numbers of 64 bits."""

    def __new__(
        cls,
        segment: Segment,
        seed: tuple[int, int],
        *,
        ratio: float,
        parent: Literal["follow", "link", "ignore"],
        keep_errors: bool,
        keep_slower_than_ns: int,
        max_per_second: float,
        keeps_all: bool,
        propagates: bool,
        capacity_bytes: int = 4 << 20,
    ) -> Tracer: ...
    def decide(self, head: RequestHead, /) -> Trace | None:
        """Return the trace of an exchange that begins; None when it is not sampled."""
    def late(self) -> Trace:
        """Return a trace that is not sampled: notes failed attempts for an exchange that may be kept for its end."""
    def drain(self) -> tuple[bytes, int, int]:
        """Take the buffered records. Returns them, their number, and the number of those dropped since the last call:
        for `max_per_second`, or because the buffer was full."""

@final
class Trace:
    """The trace of one exchange: its ids, its attempts, and points in time. Times are monotonic nanoseconds."""

    @property
    def trace_id(self) -> str: ...
    @property
    def is_sampled(self) -> bool: ...
    def begin(self, upstream: str, began_ns: int, is_reused: bool, /) -> int:
        """Begin an attempt; return its number."""
    def edits(self, number: int, edits: HeadEdits | None, /) -> HeadEdits | None:
        """Return the edits of an attempt's head with the trace's headers added; None when its upstream is
        not to join the trace."""
    def sent(self, number: int, now_ns: int, /) -> None:
        """Note that an attempt's request was sent."""
    def failed(self, number: int, now_ns: int, status: int, reason: int, /) -> None:
        """Note that an attempt was given up: the status of its response, 0 without one, and the number of the reason.
        Only the first call counts."""
    def note(self, kind: int, at_ns: int, /) -> None:
        """Note a point in time; a few dozen are kept."""
    @property
    def notes(self) -> list[tuple[int, int]]:
        """Kind and time of each note."""
    @property
    def attempts(self) -> list[tuple[str, int, int, int, int, int]]:
        """Upstream, times of begin, sending and end, status, and the reason's number plus one, of each attempt; zeros
        for what there was not: of the last one, end, status and reason."""
    @property
    def last_sent(self) -> tuple[int, int]:
        """Times at which the last attempt began and was sent; zeros without one."""

class _Principal(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...

@final
class Ledger:
    """Enters each ended exchange: gives its record to the consumers (limits, usage, retry budget, metrics, access log).

    `row` is an array of signed 64-bit cells, one for each name in `CELLS`, which the caller fills before `record`.
    Labels are ids; `outcome` is an `OUTCOME_*`; `retries` are eight counts of eight bits; `first_ns` is 0 when there
    was no first byte; times are monotonic, and `epoch_ns` plus one of them is wall-clock time. Negative numbers are 0.
    """

    CELLS: tuple[str, ...]
    def __new__(
        cls, segment: Segment, row: Buffer, *, access: AccessLog | None = None, epoch_ns: int = 0
    ) -> Ledger: ...
    def record(
        self, head: RequestHead | None, answer: BodyPump | ResponseHead | bytes | None, reservation: Reservation | None,
        price: Price | None, principal: _Principal | None, *, request_id: str, client: str, model: str, upstream: str,
        error: str, trace: Trace | None = None, transforms: str | None = None,
    ) -> int:  # fmt: skip
        """Enter the exchange in the row. Its usage is what `answer` reports (the pump of its body, a whole JSON body,
        or the head that preceded one), or else an estimate; the bytes that a pump passed are added to `bytes_out`.
        `transforms` is a JSON list of names, at most 1 KiB.
        Returns the number of buffered bytes of access lines."""
    def follow(self, tracer: Tracer | None, /) -> None:
        """Have ended exchanges kept by this tracer from now on, or by none."""
    @property
    def used(self) -> tuple[int, int]:
        """The tokens and micro-dollars of the exchange recorded last."""

# ---------------------------------------------------------------- plain TCP connections

@final
class Sockets:
    """An epoll set for listeners and transports, nested in an event loop's: `loop.add_reader(sockets.fileno(),
    sockets.turn)`.

    `complain(what, error, whom)` is called with exceptions of a protocol, which end its connection, and when a listener
    lacks resources. Bytes written during a turn are sent at its end; outside of one, at once.
    """

    def __new__(
        cls,
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object],
        complain: Callable[[str, Exception, object], object],
        /,
    ) -> Sockets: ...
    def fileno(self) -> int:
        """Return the set's descriptor: readable when there are events."""
    def turn(self) -> None:
        """Handle ready events: at most one read for each connection, 16 new connections for each listener."""
    def listen(
        self, fd: int, factory: Callable[[], object], most: int, gate: Callable[[], bool] | None = None, /
    ) -> Listener:
        """Accept connections from a listening socket, which is duplicated; `factory` makes a protocol for each. `most`
        is the size of a read in bytes, up to 65,536. While `gate` returns False, connections wait. Raises OSError."""
    def adopt(self, fd: int, protocol: object, most: int, /) -> Transport:
        """Serve a connection: the non-blocking socket is duplicated, and the protocol gets `connection_made`. Raises
        OSError."""
    def unsent(self) -> list[int]: ...  # unsent bytes, of each connection
    def lent(self) -> int: ...  # read buffers that exchanges hold
    def close(self) -> None:
        """Close everything that is open. The set's descriptor is closed with its last user."""

@final
class Listener:
    """Accepts connections until it is closed. Without free descriptors, it leaves them waiting for 0.1 s."""

    def close(self) -> None:
        """Stop accepting. Connections in the socket's queue stay there for other listeners of it. Idempotent."""

@final
class Transport:
    """A plain TCP connection with the interface of asyncio's transports, as far as our protocols use it.

    Calls the same methods of its protocol as asyncio and, if defined, `left`: the peer's FIN came while reading is
    paused. When the peer has stopped receiving, writes are discarded, and the bytes it sent before are read to the end.
    """

    def write(self, data: bytes, /) -> None:
        """Send in order; bytes the kernel does not take are buffered, and sent when it does."""
    def writelines(self, pieces: tuple[bytes, bytes], /) -> None:
        """Send two pieces."""
    def write_eof(self) -> None:
        """Send FIN, once all written bytes are sent."""
    def can_write_eof(self) -> bool:
        """Return True."""
    def pause_reading(self) -> None:
        """Pause reading. A reset is still noticed; a FIN of the peer is reported once, and once more when this is
        called again."""
    def resume_reading(self) -> None:
        """Undo pause_reading."""
    def close(self) -> None:
        """Stop reading, send the unsent bytes, and close."""
    def abort(self) -> None:
        """Close now, dropping unsent bytes. The protocol is informed in a later loop iteration."""
    def reset(self) -> None:
        """Abort, and have the kernel send RST instead of FIN."""
    def is_closing(self) -> bool:
        """Return whether close or abort was called."""
    def arm(self, client: str, network: str, /) -> None:
        """Let the set's fast path serve the next request, if it can, instead of the protocol. `client` is the client's
        address, `network` the part of it that limits count. Ignored for a number of requests after one that the fast
        path gave up."""
    @property
    def last_fast_ns(self) -> int:
        """Time of the fast path's last answer; now, while it has a request; 0 for never."""
    def set_write_buffer_limits(self, high: int) -> None:
        """Set the number of unsent bytes above which the protocol pauses; it resumes at a quarter of it."""
    def get_write_buffer_size(self) -> int:
        """Return the number of unsent bytes."""
    def set_protocol(self, protocol: object, /) -> None:
        """Set the protocol that gets events from now on."""
    def get_extra_info(self, name: str, default: object = None, /) -> object:
        """Return `peername` or `sockname`; the default for other names."""

@final
class Idle:
    """An upstream's idle connections, last used first out, and the time when the upstream last sent bytes."""

    def __new__(cls, keepalive_ns: int, most: int, /) -> Idle: ...
    def push(self, connection: object, transport: Transport | None, since_ns: int, /) -> bool:
        """Add an idle connection; False when there are `most` already. The fast path also takes those with a
        transport."""
    def pop(self, now_ns: int, /) -> Any:
        """Return a connection idle for less than `keepalive_ns`, with nothing to read or to send; None if there is
        none."""
    def stale(self, now_ns: int, /) -> list[Any]:
        """Remove and return the connections idle for longer."""
    def remove(self, connection: object, /) -> None: ...
    def close(self) -> list[Any]: ...
    def hear(self, now_ns: int, /) -> int: ...  # record that bytes came then; returns the latest such time
    def __len__(self) -> int: ...

@final
class CredentialCache:
    """Verified credentials, remembered by a keyed digest. `is_key`: the header is one for keys, not `Authorization`.
    `value` is the header's."""

    def __new__(cls, capacity: int, tenants: list[str], /) -> CredentialCache:
        """`tenants`: those that make a difference to a principal's class."""
    def learn(self, verifier: TokenVerifier | None, /) -> None:
        """Forget all credentials; the fast path verifies others with `verifier` from now on."""
    def find(
        self, is_key: bool, value: str, now_s: float, /
    ) -> tuple[str, str, str, tuple[str, ...], int, float] | None:
        """Return a credential that is valid at `now_s` (seconds since the epoch), or None: the principal's id, the name
        of its API key or "", its tenant, groups and class, and the expiry in seconds since the epoch."""
    def insert(
        self,
        is_key: bool,
        value: str,
        who: tuple[str, str, str, Sequence[str]],
        principal_class: int,
        expires_s: float,
        /,
    ) -> None:
        """Remember a credential. `who`: the first four of what `find` returns."""
    def name_class(self, roles: Sequence[str], tenant: str, models: Sequence[str], principal_class: int, /) -> None:
        """Set the class of principals with these roles and models, and with this tenant where that makes a
        difference."""
    def __len__(self) -> int: ...

@final
class FastPath:
    """The fast path: serves common exchanges end to end, past the protocols; budgateway.proxy.fastpath decides which,
    and how."""

    def __new__(
        cls, *, ids: RequestIds, ledger: Ledger, dialects: Sequence[tuple[str, str]], requests: Callable[[object], object],
        responses: Callable[[object], object], doubtful: Sequence[bytes], resume: Callable[[Resumable], None],
        released: Callable[[], None],
        flush: Callable[[], None] | None, block_bytes: int, quiet_ns: int, slack_ns: int, epoch_ns: int,
    ) -> FastPath:  # fmt: skip
        """`dialects`: see HeadReader. `requests` and `responses` make parsers that report to their argument (httptools); `resume` continues an
        exchange that is given up; `released` is called when a lease ended while requests wait; `flush` is called when `block_bytes` of access lines are buffered. `sweep` gives up
        exchanges after `quiet_ns` of silence and `slack_ns` before their deadline. `epoch_ns`: see `set_clock`."""
    def set_clock(self, epoch_ns: int, /) -> None: ...  # the wall clock less the monotonic one
    def open(self, open: bool, /) -> None: ...  # take requests, or none, which is the initial state
    def share(self, share: int, /) -> None:
        """Set how many exchanges one upstream may have in flight."""
    def set_day(self, today: int, /) -> None: ...  # days since 1970, UTC, for budgets
    def follow(
        self,
        table: RouteTable,
        credentials: CredentialCache | None,
        waiting: WaitingCount | None,
        proxies: Sequence[str],
        ipv6_prefix: int,
        /,
    ) -> None:
        """Give up the exchanges in flight, drop the cached plans, and use these from now on. `credentials`: None when
        they make no difference. `waiting`: None when nothing waits for leases. `proxies`: blocks of addresses whose
        `X-Forwarded-For` is trusted. `ipv6_prefix`: bits by which limits count IPv6 clients. Raises ValueError."""
    def clear(self) -> None: ...
    def insert(
        self,
        model: str,
        shape: object,
        identity: object,
        route: object,
        limits: object,
        body: object,
        choice: object,
        /,
    ) -> None:
        """Cache a plan for all requests of a class of principals for a model on a route. The parts are those of
        budgateway.exchange.cached_plan: CachedShape (or None), CachedIdentity, CachedRoute, CachedLimits, CachedBody
        and CachedChoice."""
    def has_plan(
        self, route: int, destination: int, dialect: int, path: bytes, principal_class: int, model: str, /
    ) -> bool: ...
    def attach(self, sockets: Sockets, /) -> None: ...  # see requests before their connection's protocol does
    def sweep(self, now_ns: int, /) -> None: ...  # give up after a timeout or `quiet_ns` of silence
    def fall_back(self) -> None: ...  # the exchanges in flight, to `resume`
    def close(self) -> None: ...
    def served(self) -> int: ...  # number of exchanges served so far
    def __len__(self) -> int: ...  # number of exchanges in flight

@final
class Resumable:
    """An exchange that the fast path gave up, with all that it holds."""

    @property
    def downstream(self) -> Any: ...  # its server.connection_cy.ServerConnection
    @property
    def connection(self) -> Any: ...  # the transport.client_cy.ClientConnection on which it was sent, or None
    @property
    def head(self) -> RequestHead: ...
    @property
    def data(self) -> bytes: ...  # the request's head and body
    @property
    def request_id(self) -> str: ...
    @property
    def destination(self) -> int: ...  # the index among its route's
    @property
    def index(self) -> int: ...  # of its target
    @property
    def note(self) -> int: ...  # the balancing policy's, about the request
    @property
    def reservation(self) -> Reservation | None: ...
    @property
    def credential(self) -> tuple[str, str, str, tuple[str, ...], int, float] | None: ...  # of CredentialCache.find
    @property
    def started_ns(self) -> int: ...
    @property
    def sent_ns(self) -> int: ...

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
NAMED: Final[int]  # the request has a request id of its own
TIMED: Final[int]  # the request has an x-request-timeout
DOUBTFUL: Final[int]  # of HeadReader: the response's body may be no answer
ASKING: Final[int]  # an OPTIONS request about the server (`*`), or a browser's preflight
TARGET_MODEL: Final[int]  # the request's path or query may name a model, in addition to the body
LOCATED: Final[int]  # of HeadReader: the response has a Location or Content-Location

FACTS: Final[int]  # number of cells that a HeadReader fills
MAX_HEAD_BYTES: Final[int]  # of a whole head
MAX_CACHED_PLANS: Final[int]  # of a FastPath; beyond it, one that is not in use makes room
JOINED_BYTES: Final[int]  # the fast path joins a head and a smaller body into one buffer

@final
class HeadReader:
    """Scans heads like RequestHead.parse and ResponseHead.parse, and writes their numbers into `facts`, where compiled
    code reads them without a Python int: size, flags, content length (-1: none), status (of a request: its dialect),
    and when it was read (`time.monotonic_ns`).

    `facts` is a writable array of `FACTS` signed 64-bit cells, overwritten with each complete head. Its flags include
    DOUBTFUL for a response whose body is complete, and is empty or begins with one of `doubtful`.

    `dialects` are pairs of a method, empty for any, and a path, which may begin or end with `*`. A request's dialect is
    the number of the first pair that matches, counted from 1; 0 when none does.
    """

    def __new__(
        cls, facts: Buffer, doubtful: Sequence[bytes] = ..., dialects: Sequence[tuple[str, str]] = ..., /
    ) -> HeadReader: ...
    def request(self, data: bytes, /) -> RequestHead | None:
        """Return the head at the beginning of `data`; None while its blank line has not arrived."""
    def response(self, data: bytes, is_head: bool, /) -> ResponseHead | None:
        """Return a response's head likewise; `is_head` when the request was HEAD."""
    def dialect(self, head: RequestHead, /) -> int:
        """Return the dialect of a head that another reader scanned."""
    def dialect_in(self, data: bytes, /) -> int:
        """Return the dialect of a request whose head is not valid, by what can be read of its first line."""

@final
class RequestIds:
    """Ids for requests without one: a prefix and a counter, 8 hexadecimal digits or more."""

    def __new__(cls, prefix: str) -> RequestIds:
        """Raises ValueError for a prefix above 48 characters, or with a character that is not allowed in request
        ids."""
    def take(self) -> str: ...

@final
class RequestHead:
    """A request's start line and headers, scanned once; keeps their bytes."""

    @staticmethod
    def parse(data: bytes, start: int = 0) -> RequestHead | None:
        """Scan the head that begins at `start`; None while its blank line has not arrived.

        Stricter than RFC 9112 where leniency allows request smuggling (RELIABILITY 3.8). Raises BadRequest and its
        subclasses (HeadTooLarge, TargetTooLong, ExpectationFailed).
        """
    @property
    def size(self) -> int:
        """Bytes from `start` to the end of the blank line."""
    @property
    def flags(self) -> int: ...
    @property
    def content_length(self) -> int:
        """The content length, or -1 when there is none."""
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str:
        """The path without the query, not percent-decoded."""
    @property
    def query(self) -> str: ...
    @property
    def host(self) -> str:
        """The host in lower case, without the port."""
    @property
    def request_id(self) -> str | None:
        """The client's x-request-id when it is 1 to 128 of [A-Za-z0-9._:-], else None."""
    def header(self, name: str) -> str | None:
        """Return the value of the first header of that (lower-case) name, decoded as latin-1."""
    def headers(self) -> list[tuple[str, str]]:
        """Return all headers in order, with names in lower case."""

@final
class HeadEdits:
    """Changes to one request's head: what an adapter sends other than the client did."""

    def __new__(
        cls,
        target: str | None = None,
        lines: Sequence[tuple[str, str]] = ...,
        drop: Sequence[str] = ...,
    ) -> HeadEdits:
        """`target` is a path with an optional query, as a client would send it: the provider's prefix applies. `lines`
        are headers to add, in place of the client's of the same names; a header that the provider's configuration sends
        is stronger. `drop` are names of the client's headers that are not sent. Raises ValueError for what could change
        the message's framing."""
    @property
    def target(self) -> str | None:
        """The target that is sent; None for the client's."""
    def at(self, target: str) -> HeadEdits:
        """Return these changes with another target. Raises ValueError."""
    def with_lines(self, lines: Sequence[tuple[str, str]], drop: Sequence[str]) -> HeadEdits:
        """Return these changes with further ones, which are stronger. Raises ValueError like the constructor."""

@final
class RequestHeadWriter:
    """Writes request heads for one upstream from parsed values, never by copying lines: allow-listed headers only.

    Always allowed: accept, content-type, content-encoding, traceparent, tracestate, baggage, user-agent,
    idempotency-key; `allow` adds to them. Never, even with `allow`: host, connection, framing, cookies, authorization,
    keys, forwarded and x-forwarded-*.
    """

    def __new__(
        cls,
        host: str,
        prefix: str,
        strip: str,
        allow: Sequence[str],
        fixed: Sequence[tuple[str, str]],
        without: Sequence[str] = ...,
    ) -> RequestHeadWriter:
        """`host` is the Host header's value; `prefix` is put before the path after `strip` was removed from it (a
        prefix ending in the path's own first segment, as in `/v1` + `/v1/chat`, is not doubled); `fixed` headers are
        sent unchanged (authorization). Raises ValueError for invalid header names or values."""
    def write(self, head: RequestHead, request_id: str, content_length: int, edits: HeadEdits | None = None) -> bytes:
        """Return the head to send. `content_length`: -1 no body, -2 chunked, else the length. A method that usually has
        a body gets `content-length: 0` without one."""
    def write_whole(self, head: RequestHead, request_id: str, body: bytes, edits: HeadEdits | None = None, /) -> bytes:
        """Return the head and the whole body, in one piece."""
    def relocate(self, head: ResponseHead, is_head: bool, /) -> ResponseHead:
        """Replace the upstream's own address in Location and Content-Location by paths that clients can use. Returns
        the same head when nothing changes. Raises UpstreamProtocolError."""

@final
class ResponseHead:
    """A response's status line and headers: hostile input, scanned once."""

    @staticmethod
    def parse(data: bytes, start: int = 0, is_head: bool = False) -> ResponseHead | None:
        """Parse like RequestHead.parse; `is_head` when the request was HEAD. Raises UpstreamProtocolError."""
    @property
    def size(self) -> int: ...
    @property
    def flags(self) -> int: ...
    @property
    def status(self) -> int: ...
    @property
    def content_length(self) -> int: ...
    def body(self) -> bytes | None:
        """Return the body when the scanned bytes held the whole message (they are then kept); else None, also for a
        message without a body."""
    def header(self, name: str) -> str | None: ...
    def headers(self) -> list[tuple[str, str]]: ...

@final
class ResponseHeadWriter:
    """Writes response heads for clients: everything except hop-by-hop headers, those named by `Connection`, framing,
    and `drop`.

    Always dropped: server, set-cookie, alt-svc, strict-transport-security, openai-organization, openai-project,
    x-request-id (replaced by ours), cf-*, via, and our own names: x-budgateway-*, rate-limit-*.
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
        reservation: Reservation | None = None,
        redactor: Redactor | None = None,
        /,
    ) -> bytes:
        """Return the head to send. `content_length`: -1 no framing header (close-delimited or no body), -2 chunked,
        else the length. `lines` is complete header lines, each with its CRLF, trusted. Unless `attempts` is 0, adds
        `x-budgateway-attempts` and `x-budgateway-overhead-us`. Adds `connection: close` unless keep_alive.
        `reservation`: the client's limits, which replace the upstream's. `redactor` masks secrets. Raises ValueError
        for a malformed request id."""
    def write_whole(
        self,
        head: ResponseHead,
        keep_alive: bool,
        request_id: str,
        lines: bytes,
        attempts: int,
        overhead_us: int,
        reservation: Reservation | None = None,
        redactor: Redactor | None = None,
        /,
    ) -> bytes:
        """Return the head and the body that followed it, in one piece. Raises ValueError when `head.body()` is None."""

@final
class ChunkScanner:
    """Follows chunked framing to its end, with limits, so that the message's last byte is known.

    Limits: extensions 256 B a chunk and 16 KiB a message, trailers 8 KiB, chunk size 16 hex digits at most. Trailers
    for framing, routing or authentication (content-length, transfer-encoding, host, connection, authorization, cookie)
    are violations. An error is final; after the end every further `feed` returns `start`.
    """

    def __new__(cls, upstream: bool = False) -> ChunkScanner:
        """With `upstream`, violations raise UpstreamProtocolError, else BadRequest."""
    def feed(self, data: bytes, start: int = 0) -> int:
        """Return the offset just past the message when it ends inside `data`, else -1 (all of it belongs to the
        message)."""
    def take(self) -> bytes:
        """Return the body's bytes fed since the last call, without their framing."""

# ---------------------------------------------------------------- bodies

@final
class BodyDecoder:
    """Decodes a request body that has a content coding, piece by piece and within bounds.

    Bounds: `limit`, and 200 times the input above the first MiB. A window of zstd is 8 MiB at most. Bytes after the end
    are refused; zstd frames may follow each other.
    """

    def __new__(cls, coding: str, limit: int, /) -> BodyDecoder:
        """Create a decoder for a coding by its name: gzip, deflate, br or zstd. Raises UnsupportedCoding for another,
        Overloaded when 32 with a window of megabytes (br, zstd) are in use in this process."""
    def feed(self, piece: bytes, /) -> bytes:
        """Return the decoded piece. Raises BadRequest when it is not of this coding, RequestTooLarge above the
        bounds."""
    def finish(self) -> None:
        """Raise BadRequest when the body is incomplete."""

@final
class Peeker:
    """Finds wanted top-level members of a JSON object in one pass, without building a document."""

    def __new__(cls, fields: Sequence[str] = ...) -> Peeker:
        """Default fields: model, stream, user, max_tokens, max_completion_tokens, max_output_tokens, stream_options. Raises
        ValueError for more than 16, or for a duplicate."""
    def peek(self, body: bytes) -> BodyPeek:
        """Validate all of `body` as JSON (RFC 8259, UTF-8, depth <= 128) and record the spans of the wanted members.

        Raises BadRequest for invalid JSON (with the byte offset), and for input on which two parsers would differ: a
        wanted member twice, a name that differs from a wanted one only in case, or a model with control characters or
        lone surrogates. A body that is JSON but no object has no fields.
        """

@final
class BodyPeek:
    """The positions of the wanted members in one body, which it keeps alive."""

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
        """max_completion_tokens, else max_tokens, else max_output_tokens, when a non-negative integer; 2**63 - 1 at
        most."""
    @property
    def asking_options(self) -> bytes | None:
        """The value of `stream_options` (JSON text, for `rewrite`) that makes a stream report its usage at its end.
        None when no change is needed: usage is requested already, or the value is for the upstream to judge."""
    def span(self, field: str) -> tuple[int, int] | None:
        """Return start and end of a member's value."""
    def rewrite(self, edits: Sequence[tuple[str, bytes | None]]) -> bytes:
        """Return the body with members replaced, inserted (when absent) or deleted (None) by splicing; the rest byte
        for byte.

        Values are JSON text, trusted; the later of two edits of a field wins; inserted members come first. Raises
        ValueError for a field that is not a wanted one, or when the body is no object.
        """

@final
class UsageScanner:
    """Scans a response as it passes: event boundaries, the terminator, usage. Never changes a byte, never raises."""

    def __new__(cls, sse: bool) -> UsageScanner:
        """`sse`: an event stream; else one JSON document."""
    def feed(self, data: bytes) -> int:
        """Scan the next bytes, split anywhere; return the number of events completed so far (SSE)."""
    @property
    def usage(self) -> tuple[int, int, int, int] | None:
        """(in, out, cached, reasoning) from the last usage object seen: OpenAI chat, completions, responses and
        embeddings, Anthropic messages (message_start and message_delta merged)."""
    @property
    def done(self) -> bool:
        """True after a terminator: `[DONE]`, `message_stop`, `response.completed` (or failed/incomplete), Cohere's
        `message-end`; for a document, after its closing bracket."""
    @property
    def error(self) -> bool:
        """True after an error event (by name, type, `error` member or `response.failed`); for a document, after an
        `error` member."""

@final
class ModelRewriter:
    """Restores the client's model name: replaces the `model` member of responses as they pass.

    In SSE, the `model` of each event's object, or of its `message` or `response` member; in JSON, the same in the
    document.
    """

    def __new__(cls, sse: bool, model: str) -> ModelRewriter: ...
    def feed(self, data: bytes) -> bytes:
        """Return the bytes to send now. Holds back at most one event (or one JSON token), 1 MiB at most; larger ones
        pass unchanged."""
    def finish(self) -> bytes:
        """Return the bytes still held back."""

@final
class Transform:
    """Rules that edit JSON bodies, in order: conditions and operations on paths, applied as splices. A path is a JSON
    pointer or, without a slash at its beginning, the name of a top-level member."""

    def __new__(
        cls,
        rules: Sequence[
            tuple[Sequence[tuple[str, str, Sequence[str]]], Sequence[tuple[str, str, str | None, str | None]]]
        ],
        exacting: bool,
        /,
    ) -> Transform:
        """Each rule has conditions (kind, path, JSON values) and operations (kind, path and two words). The conditions are
        `present`, `absent`, `in`, `above` and `below`. The operations are `remove`; `rename` (new name); `default` and
        `set` (JSON text); `set_from` (index of a value); `cap` (number, JSON text for absence or None); `system` (its path is
        a style: `chat`, `messages`, `responses`, `gemini`; `prepend`, `append` or `replace`; the text). `exacting`: a
        member that is repeated, or written in another case, is an error. Raises ValueError for more than 64 rules, and for
        words that it does not know."""
    def apply(self, body: bytes, mask: int, values: Sequence[str | None] = ..., /) -> tuple[bytes, int] | None:
        """Apply the rules whose bits are set in `mask` to a body that was validated. Return the edited body (the same
        object when nothing changes) and the mask of rules whose conditions held; None when the body is no object.
        `values` are those of `set_from`: None removes the member. Raises BadRequest."""
    def edit(self, text: bytes, mask: int, values: Sequence[str | None] = ..., /) -> bytes:
        """Like `apply`, for a text that may be anything: what is no JSON object is returned unchanged."""

@final
class EventTransform:
    """Applies the rules of a Transform to the data of a stream's events."""

    def __new__(cls, transform: Transform, mask: int, values: Sequence[str | None] = ..., /) -> EventTransform: ...
    def feed(self, data: bytes, /) -> bytes:
        """Return the bytes to send now: whole events, with bytes cut anywhere. An event longer than 1 MiB passes
        unchanged."""
    def finish(self) -> bytes:
        """Return the bytes still held back."""

SCAN_DOCUMENT: Final[int]
SCAN_EVENTS: Final[int]

# An event with content (comments, pings, empty data and `[DONE]` are none).
SEEN_EVENT: Final[int]
# The first of these was an error: by name, by type, by its `error` member, or `"object": "error"`.
SEEN_ERROR_FIRST: Final[int]
# The first of these was no JSON object.
SEEN_OTHER_FIRST: Final[int]
# A terminator (see UsageScanner.done), or a `finish_reason` that is not null.
SEEN_END: Final[int]
SEEN_ERROR: Final[int]
# The first was of an API whose streams mark their end: OpenAI's chat, completions or responses, Anthropic's messages.
SEEN_PROMISE: Final[int]
SEEN_CONTENT: Final[int]

@final
class Translator:
    """Translates requests of one dialect for upstreams of another."""

    def __new__(
        cls,
        client: str,
        upstream: str,
        provider: str,
        *,
        is_openai: bool,
        is_engine: bool,
        drops: bool,
        limit_field: str,
        reasoning_field: str,
        replays_reasoning: bool,
        inline_system: str,
        tool_images_inline: bool,
        passes_unknown: bool,
        default_max_tokens: int,
    ) -> Translator:
        """`client` and `upstream` are names of dialects. `is_openai`: the upstream is api.openai.com, which refuses
        what engines ignore. `is_engine`: vLLM or SGLang. `drops`: fields without a counterpart are dropped where they
        could be refused. `limit_field`, `reasoning_field`: the upstream's names of members. `inline_system`: `keep`,
        `fold` or `hoist`. Raises ValueError for a name that is unknown."""

    def request(self, body: bytes, model: str) -> Translation:
        """Translate a body that a Peeker has accepted; `model` is the upstream's name for it. Raises UnsupportedField
        for what the upstream's dialect has no form for, BadRequest for what the client's own does not allow."""

@final
class Translation:
    """A translated request, and the way back for its answers: one for each attempt."""

    @property
    def body(self) -> bytes:
        """The body for the upstream."""

    @property
    def dropped(self) -> list[str]:
        """The names of fields that were left out; with a `~` those that were only approximated."""

    @property
    def estimate(self) -> int:
        """A rough count of the request's tokens."""

    def answer(self, request_id: str, model: str, created: int, is_stream: bool, to_stream: bool) -> AnswerTranslation:
        """Begin the translation of an answer. `model` is the client's name for it, `created` seconds since the epoch.
        `is_stream`: the upstream sends events, not a document; `to_stream`: the client gets events."""

@final
class AnswerTranslation:
    """The translation of one answer. Both methods raise UpstreamError for an answer that cannot be understood."""

    def feed(self, data: bytes) -> bytes:
        """Translate bytes of the upstream's answer, cut anywhere; return whole events of the client's dialect."""

    def fail(self, kind: str, message: str) -> bytes:
        """Return the event that ends a stream with an error; `kind` is Anthropic's word for it."""

    def finish(self) -> bytes:
        """Return the closing events, or the document. Called once, for an answer that came whole."""

@final
class Redactor:
    """Finds secrets in upstreams' answers, plain or escaped as in JSON and URLs; those below 8 bytes are ignored."""

    def __new__(cls, secrets: Sequence[str], /) -> Redactor: ...
    def blot(self, text: bytes, /) -> bytes:
        """Return the text with an asterisk for each byte of a secret."""

@final
class BodyPump:
    """Converts a response's body from the upstream's framing to the client's; reads its usage and renames its model on
    the way."""

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
        the name to set, as in ModelRewriter. `keeps_usage`: stream events with a `usage` object, no choice and no error
        are read but not forwarded, and do not count as the stream's first. `redactor` masks secrets; with
        `only_errors`, in an event stream's errors and everything after them."""
    def feed(self, data: bytes, /) -> bytes | None:
        """Return the framed output for the next bytes of the body; None for nothing. When the chunked framing is broken
        or exceeds its limits (see ChunkScanner), returns the bytes before that and sets `fault`. Event streams are
        forwarded in whole events; one above 1 MiB is forwarded as it arrives."""
    def finish(self) -> bytes:
        """Return the remaining output when the upstream's body is complete: held-back bytes, and the last chunk."""
    @property
    def end(self) -> int:
        """The body's end in the bytes fed last, when its chunked framing ends there; else -1, and -2 when that is
        broken."""
    @property
    def fault(self) -> str | None:
        """The error in the chunked framing, or None. After it, no more of the body is forwarded."""
    @property
    def between_events(self) -> bool:
        """True when the output so far ends with a whole event, so that another may be inserted. False when no event
        stream is scanned, and inside an event that is too long to be held back."""
    @property
    def seen(self) -> int:
        """The stream's properties so far, as `SEEN_*` bits; for a document, only `SEEN_END` and `SEEN_ERROR`."""
    @property
    def passed(self) -> int:
        """Bytes of body forwarded so far, without framing."""

@final
class FrameScanner:
    """Follows one direction of a WebSocket (RFC 6455 5): headers and close frames are checked before they are
    forwarded, payloads pass unread, and no message is buffered."""

    def __new__(cls, masked: bool, compressed: bool, max_message_bytes: int, /) -> FrameScanner:
        """`masked`: the sender is a client. `compressed`: permessage-deflate was negotiated. The limit is for payload
        as sent."""
    def feed(self, data: bytes, /) -> bytes | None:
        """Return the bytes to forward: `data` itself when that is all of it, None for nothing. A violating frame, and
        anything after a violation or a close frame, is never forwarded."""
    @property
    def ended(self) -> int:
        """0 while frames pass. Else the code of the close frame that passed (1005 when it had none), or the code to
        send to a peer that broke the protocol: then `error` is not None."""
    @property
    def error(self) -> str | None:
        """The sender's protocol violation, or None."""
    @property
    def between_frames(self) -> bool:
        """True when another frame may be inserted after what has passed."""
    @property
    def frames(self) -> int:
        """Number of frames begun, control frames included."""

# ---------------------------------------------------------------- routing

@final
class RouteTable:
    """An immutable routing table (host, path, method, model, headers). Specific beats general, then first wins.

    `rules`: (host, path, methods, models, headers, priority), empty ones match everything. Hosts: exact or `*.suffix`.
    Paths: literal, `{name}` for one segment, a final `*` or `{name:path}` for the rest. Models: exact, `prefix*`, glob
    with `*` and `?`. Headers: (lower-case name, value or glob). Order: priority (highest first), host, path (literal >
    parameter > wildcard, segment by segment), methods, model (exact > longer prefix > glob > any), headers (more
    first), position. Paths are compared percent-decoded (an encoded slash stays), so that no spelling of a path escapes
    its rule; a rest may be empty (`/v1/*` matches `/v1/`, not `/v1`). Raises ValueError for an invalid pattern, with
    the rule and the reason.
    """

    def __new__(
        cls,
        rules: Sequence[tuple[str, str, Sequence[str], Sequence[str], Sequence[tuple[str, str]], int]],
        own_from: int = ...,
    ) -> RouteTable: ...
    def __len__(self) -> int: ...
    def find(self, head: RequestHead, model: str | None) -> int:
        """Return the index of the matching rule; -1 no path matches; -2 not this method; -3 not this model or headers;
        -4 a server behind the rule may take the path for another spelling of a path that has another rule. Rules from
        `own_from` on have no server behind them."""
    def lookup(
        self, method: str, path: str, host: str = "", model: str | None = None, headers: Sequence[tuple[str, str]] = ...
    ) -> int:
        """Match separate values likewise, ignoring other spellings."""
    def candidates(self, method: str, path: str, host: str, /) -> list[int]:
        """Return the rules that may match when models and headers are unknown, in order of preference."""
    def params(self, index: int, path: str) -> dict[str, str]:
        """Return the path's parameters for that rule, percent-decoded; a final `*` is named `*`. Empty when it does not
        match."""
    def explain(
        self, method: str, path: str, host: str = "", model: str | None = None, headers: Sequence[tuple[str, str]] = ...
    ) -> list[tuple[int, bool, str]]:
        """Return (rule, matched, reason) in order of preference: the first match is the result."""

# ---------------------------------------------------------------- tokens

TOKEN_REFUSED: Final[int]
TOKEN_UNKNOWN_KEY: Final[int]
TOKEN_REJECTED: Final[int]

@final
class TokenVerifier:
    """Verifies tokens as `auth/bearer.py` and `auth/claims.py` do, or leaves them to Python; never another answer.

    `issuers`: each `records.Issuer` with its keys, None when none are known. A key is its kid, its algorithms, its kind
    (oct, RSA, P-256, P-384, Ed25519; anything else is left to Python) and its numbers as bytes: the secret; modulus and
    exponent; the uncompressed point; the public key. Raises ValueError for an unknown algorithm, and for text with half
    of a surrogate pair.
    """

    def __new__(
        cls, issuers: Sequence[tuple[object, Sequence[tuple[str | None, Sequence[str], str, bytes, bytes]] | None]], /
    ) -> TokenVerifier: ...
    def verify(
        self, token: str, now_s: float, /
    ) -> tuple[str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...], float] | tuple[int, str, str] | None:
        """Return a valid token's principal (id, tenant, roles, groups, models) and expiry in seconds since the epoch;
        for another one TOKEN_REFUSED, TOKEN_UNKNOWN_KEY (with the issuer's name) or TOKEN_REJECTED, and the reason;
        None when Python decides."""
