"""A route's choice among its provider's upstreams: the native selector's, put into the exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from budgateway.cached_plan import CachedChoice
from budgateway.errors import NoUpstream, Overloaded
from budgateway.native import VERDICT_NEUTRAL, VERDICT_SUCCESS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from budgateway.balance.queue import Queue
    from budgateway.exchange_cy import Exchange
    from budgateway.native import Rendezvous, Selector

# An upstream may ask for a pause, but not take itself out for good.
MAX_REST_S = 30.0
# Clients may name models at will.
MAX_MODELS = 1024

_FULL = -2


class Balancer:
    """Picks; the exchange holds the slot until it is released (its index is then -1)."""

    def __init__(
        self,
        selector: Selector,
        targets: Sequence[Any],
        provider: str,
        queue: Queue | None = None,
        pins: Rendezvous | None = None,
        told: Callable[[str], str] = str,
    ) -> None:
        """`targets[i]` is where the selector's index `i` leads. Without a `queue` nobody waits for an upstream that is full.
        `pins`, over the same list, says where an exchange with a pin goes; `told` is the upstream's name for a model."""
        self.selector = selector
        self.targets = tuple(targets)
        self._is_tcp = not any(one.upstream.tls or one.upstream.host.startswith("/") for one in self.targets)
        self._pick = selector.pick
        self._release = selector.release
        self._answered = selector.answered
        self._provider = provider
        self._queue = queue
        self._best = None if pins is None else pins.best
        # Everybody but one, as pick takes it.
        self._others = [((1 << 64) - 1) & ~(1 << index) for index in range(min(64, len(self.targets)))]
        # what upstreams say they serve: a model, as clients call it -> those that lack it
        self._told = told
        self._lacking: dict[str, int] = {}
        self._models_version = -1
        self._filters = False

    def next(self, x: Exchange) -> Awaitable[None] | None:
        """Choose the target of the first attempt, or return the wait for one while all are full. NoUpstream when none can
        be chosen, Overloaded when too many wait."""
        queue = self._queue
        if queue is None:
            self._choose(x, x.ready_ns)
            return None
        if self._filters:
            self._leave_out(x)
        # Behind those that came first and may go to the same upstreams, in whichever worker they wait.
        lane = queue.lane(x.tried)
        if lane.is_busy() or self.try_next(x, x.ready_ns) == _FULL:
            return lane.join(x, self)
        if x.index < 0:
            raise self._nobody()
        return None

    def another(self, x: Exchange, verdict: int, now_ns: int) -> bool:
        """Move the exchange to an upstream that it has not tried, and report how it went at the one it was at. False, and
        nothing changed, when there is none."""
        if 0 <= x.index < 64:
            x.tried |= 1 << x.index
        return self.same(x, verdict, now_ns)

    def same(self, x: Exchange, verdict: int, now_ns: int) -> bool:
        """The same, but the one it was at may be chosen again."""
        index = x.index
        if self.try_next(x, now_ns) < 0:
            return False
        if index >= 0:
            self.give_back(index, verdict, now_ns)
        return True

    def spread(self, x: Exchange, share: int, now_ns: int) -> None:
        """Move an exchange from an upstream that has more than `share` in flight, and no bound of its own, to one that has
        not. Overloaded when there is none."""
        while x.index >= 0 and not x.target.upstream.max_in_flight and self.selector.in_flight(x.index) > share:
            if not self.another(x, VERDICT_NEUTRAL, now_ns):
                raise Overloaded(
                    f"upstream {x.target.label} has its share of the exchanges that the gateway takes, {share}",
                    retry_after_s=1.0,
                )

    def release(self, x: Exchange, verdict: int, now_ns: int) -> None:
        """Give the slot back, and tell the breaker how it went."""
        if x.vouched_early:
            x.vouched_early = False
            if verdict == VERDICT_SUCCESS:
                verdict = VERDICT_NEUTRAL
        self.give_back(x.index, verdict, now_ns)
        x.index = -1

    def give_back(self, index: int, verdict: int, now_ns: int) -> None:
        """Give back a slot that the exchange holds no longer."""
        self._release(index, verdict, now_ns)
        if self._queue is not None:
            self._queue.serve()

    def try_next(self, x: Exchange, now_ns: int) -> int:
        """Choose, if that can be: the index, which the exchange then holds, or what Selector.pick says instead."""
        if self._filters:
            self._leave_out(x)
        if self._best is not None and x.pin is not None:
            index: int = self._pinned(x, now_ns)
        else:
            index = self._pick(now_ns, x.tried)
        if index >= 0:
            x.index = index
            x.target = self.targets[index]
        return index

    def spare(self, x: Exchange, now_ns: int) -> bool:
        """Choose for a second attempt beside one that is under way: somebody who is wholly well, or nobody."""
        if self.try_next(x, now_ns) < 0:
            return False
        vitals = self.selector.look(x.index, now_ns)
        if vitals.breaker != "closed" or vitals.healthy is False or vitals.out_until_ns > now_ns:
            self.release(x, VERDICT_NEUTRAL, now_ns)
            return False
        return True

    def answered(self, x: Exchange, now_ns: int) -> None:
        """The exchange's upstream begins a good answer."""
        x.vouched_early = self._answered(x.index, now_ns)

    def suspect(self, x: Exchange, now_ns: int) -> None:
        """Nothing has been heard of the exchange's upstream for a while: have it asked."""
        self.selector.suspect(x.index, now_ns)

    def rest(self, x: Exchange, seconds: float, now_ns: int) -> None:
        """The exchange's upstream asks to be left alone for so long; it gets at most MAX_REST_S."""
        if seconds > 0:
            self.selector.rest(x.index, int(min(seconds, MAX_REST_S) * 1e9), now_ns)

    def follow_models(self, version: int) -> None:
        """Mind what upstreams say they serve; `version` is of the segment, and tells whether anything changed."""
        if version != self._models_version:
            self._models_version = version
            self._lacking.clear()
            self._filters = version > 0 and len(self.targets) > 1

    def left_out(self, model: str) -> int:
        """Those that do not serve a model, as far as that is known: a bit each."""
        return self._mask(model) if self._filters and model else 0

    def cached_plan(self, x: Exchange) -> CachedChoice | None:
        """The selector that chooses for x's kind. None where exchanges wait in a queue or are pinned, or where an upstream
        is reached by anything but plain TCP."""
        if self._queue is not None or self._best is not None or not self._is_tcp:
            return None
        return CachedChoice(self.selector, self.left_out(x.model), self.targets)

    def _leave_out(self, x: Exchange) -> None:
        """Exclude the upstreams that list their models, but not this one."""
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
        """Whether there is an upstream that is neither drained nor out: a leg without one is passed over."""
        for index in range(len(self.targets)):
            vitals = self.selector.look(index, now_ns)
            out = vitals.out_until_ns > now_ns or vitals.healthy is False
            if not vitals.drained and vitals.breaker != "open" and not out:
                return True
        return False

    def has_room(self, now_ns: int) -> bool:
        """Whether an exchange would not have to wait: an available upstream takes more, and nobody waits for it."""
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

    def _pinned(self, x: Exchange, now_ns: int) -> int:
        """The upstream that the pin always gets; when that one cannot be had, the one it would get without it."""
        best: Any = self._best
        excluded = x.tried
        refusal = -1
        while True:
            index: int = best(x.pin, excluded)
            if index < 0:
                # Those that are left are full, or doubtful: then as without a pin.
                return refusal if refusal == _FULL else self._pick(now_ns, x.tried)
            vitals = self.selector.look(index, now_ns)
            if vitals.out_until_ns > now_ns or vitals.healthy is False:
                excluded |= 1 << index
                continue
            picked: int = self._pick(now_ns, self._others[index])
            if picked >= 0:
                return picked
            if picked == _FULL:
                refusal = _FULL
            excluded |= 1 << index

    def _choose(self, x: Exchange, now_ns: int) -> None:
        if self.try_next(x, now_ns) < 0:
            raise self._nobody()

    def _nobody(self) -> NoUpstream:
        return NoUpstream(f"no upstream of provider '{self._provider}' is available", retry_after_s=1.0)
