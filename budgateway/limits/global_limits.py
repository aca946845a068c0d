"""Global limits of an exchange: checked after this host's own, and settled when the exchange ends."""

from __future__ import annotations

import asyncio
from time import monotonic, monotonic_ns
from typing import TYPE_CHECKING, NamedTuple

from budgateway import native
from budgateway.limits.demand import Adjustment, Demand, Kind, Release
from budgateway.limits.prepared_cy import UNSEEN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from budgateway.errors import GatewayError
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.limits.demand import Admission, SharedLimits
    from budgateway.limits.named import Named
    from budgateway.limits.prepared_cy import Deciding, Prepared
    from budgateway.limits.rules import Rulebook

S_PER_DAY = 86_400
_PERIODS = {"minute": 60, "hour": 3_600, "day": S_PER_DAY, "week": 7 * S_PER_DAY, "month": 31 * S_PER_DAY}
_KINDS = {"requests": Kind.RATE, "tokens": Kind.RATE, "concurrency": Kind.CONCURRENCY, "spend": Kind.SPEND}
# Between two tries for a lease that other hosts hold: they do not announce its end.
POLL_S = 0.025


class GlobalReservation:
    """An exchange's reservation of global limits. Settled once, at the exchange's end."""

    __slots__ = ("_counts", "_demands", "_lease", "_names", "_shadow", "_shared")

    def __init__(
        self,
        shared: SharedLimits,
        names: Sequence[Named],
        demands: Sequence[Demand],
        lease: str,
        *,
        counts: bool,
        shadow: native.Reservation | None = None,
    ) -> None:
        """`counts`: the store debited the demands; otherwise they were reported afterwards (`went`), except SPEND.
        `shadow` is the reservation that counts the exchange in this host's share of the limits."""
        self._shared = shared
        self._names = names
        self._demands = demands
        self._lease = lease
        self._counts = counts
        self._shadow = shadow

    def settle(self, tokens: int, micros: int) -> None:
        """Correct the debits to the actual tokens and micro-dollars, and release the leases."""
        adjustments, owed = [], []
        for name, demand in zip(self._names, self._demands):
            used = tokens if name.kind == "tokens" else micros if name.kind == "spend" else demand.cost
            if self._counts or demand.kind is Kind.SPEND:
                delta = used - (demand.cost if self._counts else 0)
                if delta and demand.kind is not Kind.CONCURRENCY:
                    adjustments.append(Adjustment(demand, delta))
            elif used != demand.cost:
                owed.append(demand._replace(cost=used - demand.cost))
        if adjustments:
            self._shared.settle(adjustments)
        if owed:
            self._shared.went(owed)
        if self._lease:
            keys = tuple(demand.key for demand in self._demands if demand.kind is Kind.CONCURRENCY)
            self._shared.release((Release(self._lease, keys),))
        if self._shadow is not None:
            self._shadow.settle(tokens, micros, monotonic_ns())


class _Asked(NamedTuple):
    """A question to the store: the demands, and for each one its index among the prepared limits."""

    limits: Deciding
    prepared: Prepared
    places: tuple[int, ...]
    names: tuple[Named, ...]
    demands: tuple[Demand, ...]


class GlobalLimits:
    """Connects the limits stage to the store of global limits. This host's own limits have admitted the exchange by
    then; they are never above the global ones. With several hosts, each has a share that applies while the store is
    down: admissions are counted there too, so that an outage does not begin with full buckets."""

    def __init__(self, shared: SharedLimits, book: Rulebook, *, queue_size: int, queue_timeout_s: float) -> None:
        self._shared = shared
        self._book = book
        self._queue_size = queue_size
        self._queue_timeout_s = queue_timeout_s
        self._queued = 0

    @property
    def is_up(self) -> bool:
        """True while the store answers."""
        return self._shared.is_up

    def confirm(self, limits: Deciding, x: Exchange, prepared: Prepared) -> Awaitable[None] | None:
        """Take from the global limits what was taken from this host's; None when that is already decided. Raises the
        error that refuses the exchange, which then holds nothing."""
        asked = self._question(limits, x, prepared)
        if not asked.demands:
            return None
        if not self._shared.is_up:
            try:
                admission = self._shared.failure(asked.demands)
            except BaseException:
                _let_go(x)
                raise
            self._concluded(x, asked, admission)
            return None
        admission = self._shared.take(asked.demands)
        if admission is not None:
            self._concluded(x, asked, admission)
            return None
        # Sent at the end of this turn with all others, no matter when the task awaits it.
        return self._confirmed(x, asked, self._shared.decide(asked.demands))

    async def after(self, waiting: Awaitable[None], limits: Deciding, x: Exchange, prepared: Prepared) -> None:
        """Wait in this host's own queue first, then `confirm`."""
        await waiting
        more = self.confirm(limits, x, prepared)
        if more is not None:
            await more

    async def _confirmed(self, x: Exchange, asked: _Asked, answer: Awaitable[Admission | None]) -> None:
        try:
            admission = await answer
            if admission is not None and admission.refused_by >= 0 and self._may_wait(asked, admission):
                admission = await self._wait(asked)
            refusal = self._conclude(x, asked, admission)
        except BaseException:
            _let_go(x)
            raise
        if refusal is not None:
            raise refusal

    def _concluded(self, x: Exchange, asked: _Asked, admission: Admission | None) -> None:
        refusal = self._conclude(x, asked, admission)
        if refusal is not None:
            raise refusal

    def _conclude(self, x: Exchange, asked: _Asked, admission: Admission | None) -> GatewayError | None:
        """Apply an admission: set the exchange's global reservation, or return the error that refuses it."""
        alone = asked.prepared.alone
        if admission is None:
            if alone is not None:
                # The store did not decide: take from this host's share.
                _let_go(x)
                own = asked.limits.take(x, alone, monotonic_ns())
                if own is not None:
                    return self._book.error(alone.names[own.limit], own)
            # Reported once the store is back; spending once it is known.
            lease = self._shared.went(asked.demands)
            x.global_reservation = GlobalReservation(self._shared, asked.names, asked.demands, lease, counts=False)
            return None
        if admission.refused_by >= 0:
            refusal = self._refusal(asked, admission)
            _let_go(x)
            return refusal
        counts = bool(admission.states)
        shadow = asked.limits.follow(x, alone, monotonic_ns()) if counts and alone is not None else None
        x.global_reservation = GlobalReservation(
            self._shared, asked.names, asked.demands, admission.lease, counts=counts, shadow=shadow
        )
        reservation = x.reservation
        if counts and reservation is not None:
            requests, tokens = _tightest(asked, admission, "requests"), _tightest(asked, admission, "tokens")
            reservation.set_state(requests or reservation.requests, tokens or reservation.tokens)
        return None

    def _refusal(self, asked: _Asked, admission: Admission) -> GatewayError:
        index = admission.refused_by
        name, place, state = asked.names[index], asked.places[index], admission.states[index]
        refusal = asked.prepared.limits.refusal(
            place, int(admission.retry_after_s * 1e9), False, state.remaining, int(state.reset_s * 1e9)
        )
        return self._book.error(name, refusal, is_exact=True)

    # ---------------------------------------------------------------- leases that other hosts hold

    def _may_wait(self, asked: _Asked, admission: Admission) -> bool:
        return asked.names[admission.refused_by].kind == "concurrency" and self._queued < self._queue_size

    async def _wait(self, asked: _Asked) -> Admission | None:
        """Ask again every POLL_S until there is a lease, or until the queue's timeout."""
        deadline = monotonic() + self._queue_timeout_s
        self._queued += 1
        try:
            while True:
                await asyncio.sleep(POLL_S)
                admission = await self._shared.decide(asked.demands)
                if admission is None or admission.refused_by < 0 or not self._may_wait_on(asked, admission, deadline):
                    return admission
        finally:
            self._queued -= 1

    def _may_wait_on(self, asked: _Asked, admission: Admission, deadline: float) -> bool:
        return asked.names[admission.refused_by].kind == "concurrency" and monotonic() < deadline

    # ---------------------------------------------------------------- the question

    def _question(self, limits: Deciding, x: Exchange, prepared: Prepared) -> _Asked:
        places, names, demands = [], [], []
        for place, amount, end in [] if x.reservation is None else x.reservation.debits():
            name: Named = prepared.names[place]
            if not amount and name.kind == "tokens":
                continue  # no tokens are requested, and none will be used
            whole, burst = name.whole or (name.amount, name.burst)
            places.append(place)
            names.append(name)
            demands.append(
                Demand(
                    f"{name.key}/{_subject(x, name.by, prepared)}",
                    _KINDS[name.kind],
                    whole,
                    amount,
                    burst,
                    _PERIODS.get(name.period, 0),
                    end * S_PER_DAY,
                )
            )
        return _Asked(limits, prepared, tuple(places), tuple(names), tuple(demands))


def _let_go(x: Exchange) -> None:
    """Undo this host's reservation: a request that the global limits refuse consumes nothing here."""
    if x.reservation is not None:
        x.reservation.undo()
        x.reservation = None


def _subject(x: Exchange, by: int, prepared: Prepared) -> str:
    """The subject that a limit counts, as text: the same on every host, and different for different subjects."""
    principal = x.principal
    parts = []
    if by & native.BY_USER:
        parts.append(x.limit_key)
    if by & native.BY_KEY:
        parts.append(principal.key if principal is not None and principal.key else x.limit_key)
    if by & native.BY_TENANT:
        parts.append("" if principal is None else principal.tenant)
    if by & native.BY_MODEL:
        parts.append(UNSEEN if x.hides_model else x.model)
    if by & native.BY_ROUTE:
        parts.append(prepared.route)
    if by & native.BY_ADDRESS:
        parts.append(x.network)
    return parts[0] if len(parts) == 1 else "/".join(f"{len(part)}:{part}" for part in parts)


def _tightest(asked: _Asked, admission: Admission, kind: str) -> tuple[int, int, int] | None:
    """The limit of a kind with the least left, in a reservation's form: (index, remaining, reset in ns)."""
    found = [
        (state.remaining, place, int(state.reset_s * 1e9))
        for place, name, state in zip(asked.places, asked.names, admission.states)
        if name.kind == kind
    ]
    if not found:
        return None
    left, place, reset_ns = min(found)
    return place, left, reset_ns
