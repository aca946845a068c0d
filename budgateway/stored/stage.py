"""The stage of routes with several upstreams: reads ids in answers, and finds the upstreams of ids in requests."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Protocol

from budgateway.errors import GatewayError
from budgateway.exchange.cached_plan import NOTHING, Part
from budgateway.exchange.tap import Tap
from budgateway.native import Peeker
from budgateway.wire.dialects import number_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.exchange.exchange_cy import Exchange

# Dialects whose requests are never about stored objects.
CALLS = frozenset(
    number_of(name) for name in ("openai.chat", "openai.completions", "anthropic.messages", "anthropic.count")
)
# Collections of objects, and an object's id behind their name.
COLLECTION = re.compile(r"/v1/(?:responses|files|batches|conversations)(?:/([^/?]+))?(?=[/?]|$)")
# Members of a request that name a stored object.
MEMBERS = ("previous_response_id", "conversation", "input_file_id")
# Ids in an answer. Their prefixes are OpenAI's, which the engines use as well.
IDS = re.compile(rb'"(?:id|output_file_id|error_file_id)"\s*:\s*"((?:resp|file|batch|conv)[-_][A-Za-z0-9_.-]{1,120})"')
MAX_READ_BYTES = 64 * 1024  # of an answer that are searched: ids are at its beginning
MAX_IDS = 256  # of one answer: a list may have that many
PLACES = 64  # upstreams of a provider that an exchange can be kept from, one bit each
_ALL = (1 << PLACES) - 1
_NO_FALLBACK = 1 << 20


class Holders(Protocol):
    """The memory of all workers of this host: `native.Segment`."""

    def remember(self, name: str, upstream: int, /) -> None:
        """Remember the upstream that holds an object."""
        ...

    def holder(self, name: str, /) -> int | None:
        """Return the upstream that holds an object, as far as that is remembered."""
        ...


class StoredObjects:
    """The stage of one route."""

    def __init__(self, holders: Holders, destinations: Sequence[tuple[Any, Sequence[int]]]) -> None:
        """`destinations` are those of the route, fallbacks among them, each with its upstreams' slots in the segment."""
        self._holders = holders
        self._slots = {destination: tuple(slots) for destination, slots in destinations}
        self._places: dict[int, tuple[Any, int]] = {}
        for destination, slots in destinations:
            for index, slot in enumerate(slots[:PLACES]):
                self._places.setdefault(slot, (destination, index))
        self._peek = Peeker(MEMBERS).peek

    def decide(self, x: Exchange) -> None:
        """Send a request about a stored object to the upstream that holds it, and have the answer's ids remembered."""
        if x.dialect in CALLS:
            return
        found = COLLECTION.search(x.head.path)
        if found is None:
            return
        place = self._place_of([found[1]] if found[1] else self._named(x))
        if place is not None:
            x.destination, index = place
            x.tried = _ALL & ~(1 << index)
            x.fallback = _NO_FALLBACK  # no other provider knows the object
        if x.tap is None:
            x.tap = Reading(self, x)

    def cached_plan(self, x: Exchange) -> Part | None:
        """Return the part of a cached plan: NOTHING for requests that are not about stored objects."""
        return NOTHING if x.dialect in CALLS or COLLECTION.search(x.head.path) is None else None

    def remember(self, x: Exchange, ids: Sequence[str]) -> None:
        """Remember the upstream of an exchange as the holder of these objects."""
        slots = self._slots.get(x.destination, ())
        if 0 <= x.index < min(len(slots), PLACES):
            for id_ in ids:
                self._holders.remember(id_, slots[x.index])

    def _named(self, x: Exchange) -> list[str]:
        """Return the ids of stored objects that a request's body names."""
        if x.body is None or x.peek is None:
            return []
        try:
            peek = self._peek(x.body)
        except GatewayError:
            return []  # ambiguous: the upstream's decision
        ids = []
        for member in MEMBERS:
            span = peek.span(member)
            value = None if span is None else json.loads(x.body[span[0] : span[1]])
            if isinstance(value, dict):
                value = value.get("id")
            if isinstance(value, str) and value:
                ids.append(value)
        return ids

    def _place_of(self, ids: Sequence[str]) -> tuple[Any, int] | None:
        """Return the destination and the index of the upstream that holds the first of these objects that is known."""
        for id_ in ids:
            slot = self._holders.holder(id_)
            place = None if slot is None else self._places.get(slot)
            if place is not None:
                return place
        return None


class Reading(Tap):
    """Reads the ids at the beginning of an answer."""

    def __init__(self, stage: StoredObjects, x: Exchange) -> None:
        self._stage = stage
        self._exchange = x
        self._is_good = False
        self._text = b""

    def copy(self, x: Exchange, data: bytes) -> None:
        """Keep the exchange whose attempt answers: it may be a twin."""
        self._exchange = x
        super().copy(x, data)

    def head(self, status: int, lines: bytes) -> None:
        """Take the answer's status."""
        self._is_good = 200 <= status < 300

    def data(self, piece: bytes) -> None:
        """Read a piece: ids are remembered as they come, because a client may use them while its stream still runs."""
        room = MAX_READ_BYTES - len(self._text)
        if not self._is_good or room <= 0:
            return
        before = len(self._text)
        self._text += piece[:room]
        # An id may be cut in two.
        ids = [found[1].decode() for found in IDS.finditer(self._text, max(0, before - 256))]
        if ids:
            self._stage.remember(self._exchange, ids[:MAX_IDS])


def stage_of(holders: Holders, destinations: Sequence[tuple[Any, Sequence[int]]]) -> StoredObjects | None:
    """Return the stage of a route; None where all requests go to one upstream anyway."""
    slots = {slot for _, slots in destinations for slot in slots}
    return StoredObjects(holders, destinations) if len(slots) > 1 else None
