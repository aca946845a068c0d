"""The choice of an upstream for a destination: calls the native selector, and stores the result in the exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from budgateway.errors import NoUpstream, Overloaded
from budgateway.exchange.cached_plan import CachedChoice, CachedDestination
from budgateway.native import VERDICT_NEUTRAL, VERDICT_SUCCESS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from budgateway.balance.queue import Queue
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.native import Selector

# An upstream may ask for a pause, but not remove itself permanently.
MAX_REST_S = 30.0
# Bounded, because clients may invent model names.
MAX_MODELS = 1024

_FULL = -2
_INDEX = 0xFFFF  # the bits of a pick that are its index; the rest is the policy's note


class Balancer:
    """Picks an upstream and takes a slot there, which the exchange holds until `release` (its index is then -1)."""

    def __init__(
        self,
        selector: Selector,
        targets: Sequence[Any],
        provider: str,
        queue: Queue | None = None,
        told: Callable[[str], str] = str,
    ) -> None:
        """`targets[i]` belongs to the selector's index `i`. Without a `queue`, exchanges never wait for an upstream.
        `told` returns the upstream's name for a model."""
        self.selector = selector
        self.targets = tuple(targets)
        self._is_tcp = not any(one.upstream.tls or one.upstream.host.startswith("/") for one in self.targets)
        self._pick = selector.pick
        self._release = selector.release
        self._answered = selector.answered
        self._provider = provider
        self._queue = queue
        self._observes = "outcome" in selector.needs
        self._asks = selector.pins or self._observes or "request" in selector.needs
        # from the upstreams' model lists: the client's model name -> mask of upstreams that lack it
        self._told = told
        self._lacking: dict[str, int] = {}
        self._models_version = -1
        self._filters = False

    def next(self, x: Exchange) -> Awaitable[None] | None:
        """Choose the target of the first attempt, or return an awaitable while all are full. NoUpstream when none can
        be chosen, Overloaded when too many wait."""
        queue = self._queue
        if queue is None:
            self._choose(x, x.ready_ns)
            return None
        if self._filters:
            self._leave_out(x)
        # Queue behind earlier exchanges that wait for the same upstreams, in any worker.
        lane = queue.lane(x.tried)
        if lane.is_busy() or self.try_next(x, x.ready_ns) == _FULL:
            return lane.join(x, self)
        if x.index < 0:
            raise self._nobody()
        return None

    def another(self, x: Exchange, verdict: int, now_ns: int) -> bool:
        """Move the exchange to an upstream that it has not tried, and report `verdict` for the former one. False when
        there is none; only `x.tried` has changed then."""
        if 0 <= x.index < 64:
            x.tried |= 1 << x.index
        return self.same(x, verdict, now_ns)

    def same(self, x: Exchange, verdict: int, now_ns: int) -> bool:
        """Like `another`, but the former upstream may be chosen again."""
        index, note = x.index, x.note
        if self.try_next(x, now_ns) < 0:
            return False
        if index >= 0:
            self.give_back(index, note, verdict, now_ns)
        return True

    def spread(self, x: Exchange, share: int, now_ns: int) -> None:
        """Move an exchange away from an upstream that has more than `share` in flight and no bound of its own, to one
        below that. Overloaded when there is none."""
        while x.index >= 0 and not x.target.upstream.max_in_flight and self.selector.in_flight(x.index) > share:
            if not self.another(x, VERDICT_NEUTRAL, now_ns):
                raise Overloaded(
                    f"upstream {x.target.label} has its full share of the exchanges that the gateway accepts, {share}",
                    retry_after_s=1.0,
                )

    def release(self, x: Exchange, verdict: int, now_ns: int) -> None:
        """Give the slot back, and report the verdict to the breaker."""
        if x.reported_early:
            x.reported_early = False
            if verdict == VERDICT_SUCCESS:
                verdict = VERDICT_NEUTRAL
        if self._observes:
            # A stream's head may come long before its first token.
            first_ns = x.token_ns if x.sse else x.first_byte_ns
            answer: Any = x.document if x.pump is None else x.pump
            self.selector.complete(x.index, verdict, now_ns, x.note, x.ready_ns, first_ns, answer)
            if self._queue is not None:
                self._queue.serve()
        else:
            self.give_back(x.index, 0, verdict, now_ns)
        x.index = -1

    def give_back(self, index: int, note: int, verdict: int, now_ns: int) -> None:
        """Give back a slot that the exchange no longer holds, and serve the queue. `note` is the policy's about that
        attempt."""
        if self._observes:
            self.selector.complete(index, verdict, now_ns, note, now_ns, 0, None)
        else:
            self._release(index, verdict, now_ns)
        if self._queue is not None:
            self._queue.serve()

    def try_next(self, x: Exchange, now_ns: int) -> int:
        """Choose an upstream without waiting. Returns its index, which the exchange then holds, or the negative result
        of Selector.pick."""
        if self._filters:
            self._leave_out(x)
        index: int = self._pick_for(x, now_ns) if self._asks else self._pick(now_ns, x.tried)
        if index >= 0:
            x.index = index
            x.target = self.targets[index]
        return index

    def try_another(self, x: Exchange, now_ns: int) -> bool:
        """Choose an upstream for a hedge: a fully healthy one, or none (False)."""
        if self.try_next(x, now_ns) < 0:
            return False
        vitals = self.selector.look(x.index, now_ns)
        if vitals.breaker != "closed" or vitals.healthy is False or vitals.out_until_ns > now_ns:
            self.release(x, VERDICT_NEUTRAL, now_ns)
            return False
        return True

    def answered(self, x: Exchange, now_ns: int) -> None:
        """Report that the exchange's upstream has begun a successful response."""
        x.reported_early = self._answered(x.index, now_ns)
        if self._observes:
            self.selector.begun(x.index, x.note, now_ns)

    def suspect(self, x: Exchange, now_ns: int) -> None:
        """Have the exchange's upstream probed: it has been silent for a while."""
        self.selector.suspect(x.index, now_ns)

    def rest(self, x: Exchange, seconds: float, now_ns: int) -> None:
        """Pause the exchange's upstream for the time that it requested, at most MAX_REST_S."""
        if seconds > 0:
            self.selector.rest(x.index, int(min(seconds, MAX_REST_S) * 1e9), now_ns)

    def follow_models(self, version: int) -> None:
        """Follow the upstreams' model lists; `version` is the segment's, and changes with them."""
        if version != self._models_version:
            self._models_version = version
            self._lacking.clear()
            self._filters = version > 0 and len(self.targets) > 1

    def left_out(self, model: str) -> int:
        """The mask of upstreams known not to serve a model."""
        return self._mask(model) if self._filters and model else 0

    def cached_plan(self, x: Exchange) -> CachedChoice | None:
        """The choice of a cached plan. None when an upstream is not reached by plain TCP."""
        if not self._is_tcp:
            return None
        left_out = self.left_out(x.model)
        queue = self._queue
        if queue is None:
            return CachedChoice(self.selector, left_out, self.targets)
        return CachedChoice(self.selector, left_out, self.targets, queue.lane(left_out).native, queue.serve)

    def cached_destination(self) -> CachedDestination:
        """Return the parts of this destination that a choice among several needs."""
        queue = self._queue
        return CachedDestination(self.selector, None if queue is None else queue.lane(0).native)

    def _leave_out(self, x: Exchange) -> None:
        """Exclude upstreams whose model list lacks the exchange's model."""
        if x.model:
            x.tried |= self._mask(x.model)

    def _mask(self, model: str) -> int:
        mask = self._lacking.get(model)
        if mask is None:
            mask = self.selector.lacking(self._told(model))
            if len(self._lacking) < MAX_MODELS:
                self._lacking[model] = mask
        return mask

    def is_available(self, now_ns: int) -> bool:
        """True when some upstream is neither drained nor out. A split skips destinations without one."""
        for index in range(len(self.targets)):
            vitals = self.selector.look(index, now_ns)
            out = vitals.out_until_ns > now_ns or vitals.healthy is False
            if not vitals.drained and vitals.breaker != "open" and not out:
                return True
        return False

    def has_room(self, now_ns: int) -> bool:
        """True when an exchange would not have to wait: an available upstream has room, and the queue is empty."""
        if self._queue is None:
            return True
        if self._queue.lane(0).is_busy():
            return False
        for index, target in enumerate(self.targets):
            vitals = self.selector.look(index, now_ns)
            out = vitals.out_until_ns > now_ns or vitals.healthy is False
            if vitals.drained or vitals.breaker == "open" or out:
                continue
            bound = target.upstream.max_in_flight
            if not bound or self.selector.in_flight(index) < bound:
                return True
        return False

    def _pick_for(self, x: Exchange, now_ns: int) -> int:
        """Choose by the exchange's pin, or by what the policy needs to know of it."""
        picked: int = self.selector.pick_for(
            now_ns, x.tried, x.pin, x.limit_key, x.model, x.body_bytes, x.streams
        )  # fmt: skip
        if picked < 0:
            return picked
        x.note = picked >> 16
        return picked & _INDEX

    def _choose(self, x: Exchange, now_ns: int) -> None:
        if self.try_next(x, now_ns) < 0:
            raise self._nobody()

    def _nobody(self) -> NoUpstream:
        return NoUpstream(f"no upstream of provider '{self._provider}' is available", retry_after_s=1.0)
