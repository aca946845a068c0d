"""Global limits in Redis: one turn of the loop sends its decisions, settlements and releases in one script call."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import deque
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple, Protocol

from budgateway.errors import StoreUnavailable
from budgateway.limits.demand import Adjustment, Admission, Demand, Kind, LimitState

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from budgateway.limits.demand import Release
    from budgateway.records import OnStoreFailure

# RELIABILITY L3: a worker without a heartbeat for this long loses its leases.
LEASE_S = 4.0
BEATS = 4  # heartbeats in that time
REPEAT_BEATS = 30  # the script keeps leases for four times as long
MAX_CALLS = 4  # in flight at once; operations that arrive meanwhile share the next call
MAX_OPERATIONS = 256  # per call: Redis serves nobody else while the script runs, about 2 us per operation
MAX_WAITING = 50_000  # pending settlements, and rates owed to Redis, by key
LONG_KEY = 200

# Read at import, because it is code: the loop then never waits for the disk.
SCRIPT = files("budgateway.limits").joinpath("shared.lua").read_bytes()
_DIGEST = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()  # for EVALSHA

# Codes of the script's operations.
_DEMAND, _LAST_DEMAND, _SETTLE, _RELEASE, _ASSERT, _BEAT = range(6)
_OPERATION = struct.Struct("<BBddddd")
_LETTERS = {Kind.RATE: "r", Kind.CONCURRENCY: "c", Kind.SPEND: "s"}
# The key in `on_store_failure` of each kind.
FEATURES = {Kind.RATE: "rates", Kind.CONCURRENCY: "concurrency", Kind.SPEND: "budgets"}
_STRICTNESS: dict[str, int] = {"open": 0, "local": 1, "closed": 2}


class Failure(Protocol):
    """The reason for a missing reply: `code` is DOWN (never sent), LOST, TIMEOUT, or the server's first word."""

    code: str

    @property
    def is_unfit(self) -> bool:
        """True when the server failed, not the command."""
        ...


class Line(Protocol):
    """The connection to Redis (`redis.client.Store`)."""

    is_up: bool

    def submit(self, sink: Batch, *command: str | bytes | float) -> None:
        """Queue a command; `sink` gets its reply or failure exactly once, within milliseconds."""

    def flush(self) -> None:
        """Write the submitted commands."""

    def unfit(self, code: str, message: str) -> None:
        """Report that the server cannot serve us."""


class Tally:
    """Counters for metrics: monotonic, of this process."""

    __slots__ = ("calls", "decisions", "fallbacks", "lost", "returned")

    def __init__(self) -> None:
        self.decisions = 0  # answered by Redis
        self.calls = 0  # round trips
        self.fallbacks = 0  # decisions without an answer from Redis: on_store_failure applied
        self.lost = 0  # settlements that were dropped, or whose outcome is unknown
        self.returned = 0  # admissions given back, because the caller was gone


class _Operation(NamedTuple):
    key: str
    packed: bytes


class Decision:
    """A decision in flight. Its future always gets a result; the caller that takes the result sets `claimed`. An
    admission not claimed when the object is destroyed is given back: its task was cancelled, at any point."""

    __slots__ = ("claimed", "demands", "future", "granted", "limits", "operations")

    def __init__(
        self,
        limits: RedisLimits,
        demands: Sequence[Demand],
        operations: list[_Operation],
        future: asyncio.Future[Outcome],
    ) -> None:
        self.limits = limits
        self.demands = demands
        self.operations = operations
        self.future = future
        self.claimed = False
        self.granted: tuple[int, ...] | None = None  # of `extra`, once admitted

    def __del__(self) -> None:
        if self.granted is not None and not self.claimed:
            self.limits.give_back(self)


# None: Redis did not answer.
Outcome = Admission | None


class RedisLimits:
    """Implements `SharedLimits` over a `Line`. One per worker; every method is called on its loop.

    Admissions are counted in Redis only. Leases are counted by worker: Redis holds, by key, the number of each worker's
    leases, and a worker without a heartbeat for `lease_s` has none. So one heartbeat a second (with the default) renews
    all leases, and when a release may have been lost, the worker sends the number it holds instead of the change.
    """

    def __init__(
        self,
        line: Line,
        *,
        namespace: str,
        worker: str,
        on_failure: Mapping[str, OnStoreFailure] | None = None,
        lease_s: float = LEASE_S,
        parts: int = 1,
    ) -> None:
        """`worker` is unique among all workers that share the limits, and never reused by another process. `parts`: the
        number of those workers."""
        self.tally = Tally()
        self._line = line
        self.worker = worker  # also the name of its leases
        self._prefix = f"rate_limit:{{{namespace}}}:"
        self._policies: dict[Kind, OnStoreFailure] = {
            kind: (on_failure or {}).get(name, "local") for kind, name in FEATURES.items()
        }
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Decision] = deque()
        self._settlements: dict[_Settled, int] = {}
        self._releases: dict[str, int] = {}
        self._owed: dict[Demand, _Owed] = {}
        self._parts = parts
        self._held: dict[str, int] = {}
        self._dirty: set[str] = set()
        self._calls = 0
        self._flush_due = False
        self._beats = 0
        self._beat_due = False
        self._lease_us = int(lease_s * 1e6)
        self._beat_s = lease_s / BEATS
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Start sending heartbeats."""
        self._timer = self._loop.call_later(self._beat_s, self._beat)

    @property
    def is_idle(self) -> bool:
        """True when no lease is held and nothing waits to be sent."""
        return not (self._held or self._waiting or self._settlements or self._releases or self._owed)

    # ---------------------------------------------------------------- SharedLimits

    def decide(self, demands: Sequence[Demand]) -> Coroutine[object, object, Outcome]:
        """See `SharedLimits.decide`. Sent at the end of this turn, awaited or not."""
        decision = self.begin(demands)
        return self._told(decision)

    @property
    def is_up(self) -> bool:
        """True while Redis answers."""
        return self._line.is_up

    def take(self, demands: Sequence[Demand]) -> Admission | None:
        """Return None: every decision needs a round trip."""
        return None

    def begin(self, demands: Sequence[Demand], extra: Sequence[int] = ()) -> Decision:
        """Request all demands or none, and of each up to `extra` more units if available."""
        last = len(demands) - 1
        operations = [
            _Operation(
                self._key(demand),
                _OPERATION.pack(
                    _DEMAND if index < last else _LAST_DEMAND,
                    demand.kind,
                    demand.limit,
                    demand.cost,
                    _a(demand),
                    demand.burst,
                    extra[index] if extra else 0,
                ),
            )
            for index, demand in enumerate(demands)
        ]
        decision = Decision(self, demands, operations, self._loop.create_future())
        if not self._line.is_up:
            decision.future.set_result(None)
        else:
            self._waiting.append(decision)
            self._due()
        return decision

    def settle(self, adjustments: Sequence[Adjustment]) -> None:
        """See `SharedLimits.settle`. Sent at the end of this turn, or once Redis is back."""
        for demand, delta in adjustments:
            if delta:
                what = self._settled(demand)
                if what in self._settlements or len(self._settlements) < MAX_WAITING:
                    self._settlements[what] = self._settlements.get(what, 0) + delta
                else:
                    self.tally.lost += 1
        self._due()

    def went(self, demands: Sequence[Demand]) -> str:
        """See `SharedLimits.went`. Rates are owed, minus what would have refilled meanwhile."""
        lease = ""
        for demand in demands:
            if demand.kind is Kind.CONCURRENCY and demand.cost:
                lease = self.worker
                self._hold(self._key(demand), demand.cost)
            elif demand.kind is Kind.RATE and demand.cost:
                what = demand._replace(cost=0)
                if self._line.is_up:
                    self.settle((Adjustment(what, demand.cost),))
                elif what in self._owed or len(self._owed) < MAX_WAITING:
                    owed = self._owed.setdefault(what, _Owed(self._loop.time() + _fill_s(what)))
                    owed.add(demand.cost, what, self._parts, self._loop.time())
                else:
                    self.tally.lost += 1
        self._due()
        return lease

    def _pay(self) -> None:
        """Turn the owed rates into settlements: Redis is back."""
        now = self._loop.time()
        owed, self._owed = self._owed, {}
        for demand, one in owed.items():
            one.add(0, demand, self._parts, now)
            if amount := round(one.amount):
                what = self._settled(demand)
                self._settlements[what] = self._settlements.get(what, 0) + amount

    def release(self, releases: Sequence[Release]) -> None:
        """See `SharedLimits.release`. Sent at the end of this turn, or once Redis is back."""
        for release in releases:
            if release.lease == self.worker:
                for key in release.keys:
                    self._let_go(self._prefix + "c:" + _short(key), 1)
        self._due()

    def failure(self, demands: Sequence[Demand]) -> Outcome:
        """Apply `on_store_failure`: the strictest setting of the kinds concerned. `closed` raises StoreUnavailable."""
        self.tally.fallbacks += 1
        words = [self._policies[demand.kind] for demand in demands]
        word = max(words, key=_STRICTNESS.__getitem__, default="local")
        if word == "closed":
            raise StoreUnavailable("limits cannot be checked: redis is down", retry_after_s=1.0)
        if word == "local":
            return None
        return Admission(-1, 0.0, (), "")

    def give_back(self, decision: Decision) -> None:
        """Undo an admission whose caller is gone."""
        granted, decision.granted = decision.granted, None
        if granted is None or self._loop.is_closed():
            return
        self.tally.returned += 1
        for demand, more in zip(decision.demands, granted):
            amount = demand.cost + more
            if demand.kind is Kind.CONCURRENCY:
                self._let_go(self._key(demand), amount)
            elif amount:
                what = self._settled(demand)
                self._settlements[what] = self._settlements.get(what, 0) - amount
        self._due()

    def close(self) -> None:
        """Send what is pending. Leases of exchanges that still run expire by themselves. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting or self._settlements or self._releases:
            self._flush()

    # ---------------------------------------------------------------- one call

    async def _told(self, decision: Decision) -> Outcome:
        outcome = await decision.future
        decision.claimed = True
        return self.failure(decision.demands) if outcome is None else outcome

    def _due(self) -> None:
        if not self._flush_due and self._line.is_up:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if not self._line.is_up:
            self._fall_back(self._waiting)
            return
        if self._owed:
            self._pay()
        sent = False
        while self._calls < MAX_CALLS and (self._waiting or self._settlements or self._releases or self._beat_due):
            self._send(self._gather())
            sent = True
        if sent:
            self._line.flush()

    def _gather(self) -> Batch:
        """Build the next call. Releases and settlements come first: decisions can then take what they return."""
        batch = Batch(self)
        room = MAX_OPERATIONS
        if self._beat_due:
            self._beat_due = False
            batch.add(_Operation(self._prefix + "holders", _OPERATION.pack(_BEAT, 0, 0, 0, 0, 0, 0)))
        if self._dirty and not self._calls:
            # No call is in flight: our own counts are exact.
            for key in list(self._dirty)[:room]:
                self._dirty.discard(key)
                self._releases.pop(key, None)
                held = self._held.get(key, 0)
                batch.add(_Operation(key, _OPERATION.pack(_ASSERT, Kind.CONCURRENCY, 0, held, 0, 0, 0)))
                batch.asserted.append(key)
                room -= 1
        for key in list(self._releases)[: max(room, 0)]:
            count = self._releases.pop(key)
            batch.add(_Operation(key, _OPERATION.pack(_RELEASE, Kind.CONCURRENCY, 0, count, 0, 0, 0)))
            batch.released.append(key)
            room -= 1
        for what in list(self._settlements)[: max(room, 0)]:
            delta = self._settlements.pop(what)
            batch.add(_Operation(what.key, what.packed(delta)))
            batch.settled.append((what, delta))
            room -= 1
        while self._waiting and (room > 0 or not batch.keys):
            decision = self._waiting.popleft()
            if decision.future.done():  # cancelled before it was sent
                continue
            for operation in decision.operations:
                batch.add(operation)
            batch.decisions.append(decision)
            room -= len(decision.operations)
        return batch

    def _send(self, batch: Batch, *, whole: bool = False) -> None:
        self._calls += 1
        self.tally.calls += 1
        command = ("EVAL", SCRIPT) if whole else ("EVALSHA", _DIGEST)
        self._line.submit(
            batch,
            *command,
            len(batch.keys) + 1,
            self._prefix + "holders",
            *batch.keys,
            self.worker,
            self._lease_us,
            b"".join(batch.packed),
        )

    def replied(self, batch: Batch, reply: object, *, in_time: bool) -> None:
        """Distribute the script's results to the decisions."""
        if not isinstance(reply, list):
            self.lost(batch, "ERR")
            return
        self._calls -= 1
        if reply[0] and self._held:
            # Our leases had expired, or Redis lost its data: send again what we hold.
            self._dirty.update(self._held)
        at = 1
        for decision in batch.decisions:
            count = len(decision.demands)
            self._decided(decision, reply[at : at + 2 + 3 * count], in_time=in_time)
            at += 2 + 3 * count
        self._go_on()

    def _decided(self, decision: Decision, numbers: list[int], *, in_time: bool) -> None:
        refused, wait_us = numbers[0], numbers[1]
        demands = decision.demands
        lease = ""
        if refused < 0:
            decision.granted = tuple(numbers[4::3])
            for demand, granted in zip(demands, decision.granted):
                if demand.kind is Kind.CONCURRENCY and demand.cost + granted:
                    lease = self.worker
                    key = self._key(demand)
                    self._held[key] = self._held.get(key, 0) + demand.cost + granted
        if in_time and not decision.future.done():
            self.tally.decisions += 1
            states = tuple(LimitState(left, reset_us / 1e6) for left, reset_us in zip(numbers[2::3], numbers[3::3]))
            decision.future.set_result(Admission(refused, wait_us / 1e6, states, lease))
        elif refused < 0:
            self.give_back(decision)

    def unanswered(self, batch: Batch, error: Failure) -> None:
        """Handle a timeout or an error."""
        if error.code == "NOSCRIPT" and not batch.whole:
            # Nothing was executed: Redis was restarted, or its scripts were flushed.
            self._calls -= 1
            batch.whole = True
            self._send(batch, whole=True)
            return
        if error.code == "TIMEOUT":
            # The reply may still come (`Batch.late`). Decisions queued behind it would wait even longer.
            self._fall_back(batch.decisions)
            self._fall_back(self._waiting)
        else:
            self.lost(batch, error.code)
        if error.is_unfit:
            self._line.unfit(error.code, str(error))
        self._go_on()

    def lost(self, batch: Batch, code: str) -> None:
        """Requeue what can be sent again: a call had no effect, or (LOST) an unknown one. LOST settlements are dropped,
        lease counts are sent again."""
        self._calls -= 1
        self._dirty.update(batch.asserted)
        self._dirty.update(batch.released)
        for decision in batch.decisions:
            for demand in decision.demands:
                if code == "LOST" and demand.kind is Kind.CONCURRENCY:
                    self._dirty.add(self._key(demand))
        if code == "LOST":
            self.tally.lost += len(batch.settled)
        else:
            for what, delta in batch.settled:
                self._settlements[what] = self._settlements.get(what, 0) + delta
        self._fall_back(batch.decisions)

    def _go_on(self) -> None:
        if self._waiting or self._settlements or self._releases:
            self._due()

    def _fall_back(self, decisions: deque[Decision] | list[Decision]) -> None:
        """Resolve these decisions with None: no answer."""
        for decision in decisions:
            if not decision.future.done():
                decision.future.set_result(None)
        if decisions is self._waiting:
            self._waiting.clear()

    # ---------------------------------------------------------------- leases

    def _hold(self, key: str, count: int) -> None:
        """Count leases that were admitted without Redis, and report them to it."""
        self._held[key] = self._held.get(key, 0) + count
        self._releases[key] = self._releases.get(key, 0) - count
        self._beat_due = True

    def _let_go(self, key: str, count: int) -> None:
        left = self._held.get(key, 0) - count
        if left > 0:
            self._held[key] = left
        else:
            self._held.pop(key, None)
        self._releases[key] = self._releases.get(key, 0) + count

    def _beat(self) -> None:
        """Send a heartbeat for all leases. Every REPEAT_BEATS, send each lease again, because keys expire."""
        self._timer = self._loop.call_later(self._beat_s, self._beat)
        self._beats += 1
        if self._held and self._beats % REPEAT_BEATS == 0:
            self._dirty.update(self._held)
        if self._held or self._dirty:
            self._beat_due = True
        if self._beat_due or self._settlements or self._releases or self._owed:
            self._due()

    def _key(self, demand: Demand) -> str:
        key = f"{self._prefix}{_LETTERS[demand.kind]}:{_short(demand.key)}"
        return f"{key}:{demand.ends_s}" if demand.kind is Kind.SPEND else key

    def _settled(self, demand: Demand) -> _Settled:
        return _Settled(self._key(demand), demand.kind, demand.limit, _a(demand))


class _Owed:
    """The debt of one rate: units admitted while Redis was down."""

    __slots__ = ("amount", "full_at", "then")

    def __init__(self, full_at: float) -> None:
        """`full_at`: the latest time at which Redis' bucket is full by itself; refills after that are lost there."""
        self.amount = 0.0
        self.full_at = full_at
        self.then = full_at

    def add(self, units: int, demand: Demand, parts: int, now: float) -> None:
        """Add units, minus the refill since the bucket was full, of which each of `parts` workers counts its fraction.
        The debt is at most a whole bucket."""
        if now > self.then:
            refilled = (now - self.then) * demand.limit / demand.period_s / parts
            self.amount = max(0.0, self.amount - refilled)
            self.then = now
        self.amount = min(max(0.0, self.amount + units), float(demand.burst))


def _fill_s(demand: Demand) -> float:
    """The seconds in which an empty bucket fills."""
    return demand.burst * demand.period_s / demand.limit


class _Settled(NamedTuple):
    """The subject of a settlement. Deltas with equal subjects are added up."""

    key: str
    kind: Kind
    limit: int
    a: float

    def packed(self, delta: int) -> bytes:
        return _OPERATION.pack(_SETTLE, self.kind, self.limit, delta, self.a, 0, 0)


class Batch:
    """One call of the script, and the sink of its reply."""

    __slots__ = ("_limits", "asserted", "decisions", "keys", "packed", "released", "settled", "whole")

    def __init__(self, limits: RedisLimits) -> None:
        self._limits = limits
        self.keys: list[str] = []
        self.packed: list[bytes] = []
        self.decisions: list[Decision] = []
        self.settled: list[tuple[_Settled, int]] = []
        self.released: list[str] = []
        self.asserted: list[str] = []
        self.whole = False

    def add(self, operation: _Operation) -> None:
        self.keys.append(operation.key)
        self.packed.append(operation.packed)

    def done(self, reply: object) -> None:
        self._limits.replied(self, reply, in_time=True)

    def failed(self, error: Failure) -> None:
        self._limits.unanswered(self, error)

    def late(self, reply: object) -> None:
        if isinstance(reply, Exception):
            self._limits.lost(self, getattr(reply, "code", "LOST"))
        else:
            self._limits.replied(self, reply, in_time=False)


def _a(demand: Demand) -> float:
    """The script's `a`: SPEND: unix seconds at which the period ends; else microseconds in which a bucket refills."""
    return demand.ends_s if demand.kind is Kind.SPEND else demand.period_s * 1e6


def _short(key: str) -> str:
    """Bound a key's length, because clients choose the names in it: long keys end in a hash."""
    if len(key) <= LONG_KEY:
        return key
    return key[:40] + hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=20).hexdigest()
