"""Edits of answers: JSON documents, the events of streams, and headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from budgateway.errors import UpstreamProtocolError
from budgateway.exchange.response_check_cy import scan_of
from budgateway.native import EventTransform, ResponseHeadWriter, Transform
from budgateway.transform.bodies import Sources, holds, note, operations_of
from budgateway.transform.selector import Selector
from budgateway.wire.chunked_cy import chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.native import ResponseHead
    from budgateway.records import TransformRule
    from budgateway.wire.dialects import Dialect

_DOCUMENT = 1
_EVENTS = 2

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024  # a larger answer in pieces is not edited: it would have to be kept whole
TEXT_BYTES = 64 * 1024  # kept of an answer that is being checked: an error's text is shorter
# Headers that are not true of an edited body.
DIGESTS = ("etag", "content-md5", "digest", "content-digest", "repr-digest")


class Adapting(Protocol):
    """The adapter of an exchange: `providers.passthrough_cy.Passthrough`."""

    def body(self, x: Any, head: Any) -> Any:
        """Return the pump of a body that arrives in pieces."""
        ...


class AnswerRules:
    """Rules for the answers of one destination."""

    def __init__(self, rules: Sequence[TransformRule], clients: Sequence[Dialect], describing: Sequence[str]) -> None:
        """`clients` are the dialects by `x.dialect`; `describing` the headers that a translated answer does not keep."""
        self.rules = tuple(rule for rule in rules if rule.response or rule.response_headers)
        self._selector = Selector(self.rules, clients)
        self._sources = Sources([edit for rule in self.rules for edit in rule.response])
        self._transform = Transform([([], operations_of(rule.response, self._sources)) for rule in self.rules], False)
        self._bodies = sum(1 << place for place, rule in enumerate(self.rules) if rule.response)
        self._describing = tuple(describing)
        self._heads: dict[tuple[int, bool], AnswerHead] = {}

    def of(self, x: Exchange) -> AnswerEdits | None:
        """Return the edits of an exchange's answer; None without any."""
        owner = x if x.primary is None else x.primary  # a twin has no principal
        mask = self._mask(owner)
        if not mask:
            return None
        note(owner, self._named(mask))
        scan = scan_of(x.response_flags) if mask & self._bodies else 0
        return AnswerEdits(self, self._transform, mask, scan, self._sources.values(owner))

    def names(self, x: Exchange) -> list[str]:
        """Return the names of the rules that would edit an exchange's answer."""
        return self._named(self._mask(x))

    def concerns_none(self, x: Exchange) -> bool:
        """Return whether no rule can concern a request with the same principal and model."""
        return self._selector.concerns_none(x)

    def head(self, mask: int, is_translated: bool) -> AnswerHead:
        """Return the edits of the head of answers to which the rules of a mask apply."""
        known = self._heads.get((mask, is_translated))
        if known is None:
            known = self._heads[mask, is_translated] = self._head(mask, is_translated)
        return known

    def _mask(self, x: Exchange) -> int:
        mask = self._selector.mask(x)
        for place, rule in enumerate(self.rules):
            if mask >> place & 1 and not holds(rule, x):
                mask &= ~(1 << place)
        return mask

    def _named(self, mask: int) -> list[str]:
        return [rule.name for place, rule in enumerate(self.rules) if mask >> place & 1]

    def _head(self, mask: int, is_translated: bool) -> AnswerHead:
        lines: dict[str, str] = {}
        removed = set(self._describing) if is_translated else set()
        if mask & self._bodies:
            removed.update(DIGESTS)
        for place, rule in enumerate(self.rules):
            if mask >> place & 1:
                for name in rule.response_headers.remove:
                    lines.pop(name, None)
                    removed.add(name)
                lines.update((name, value.reveal()) for name, value in rule.response_headers.set)
        writer = ResponseHeadWriter([*removed, *lines])
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return AnswerHead(writer.write, text.encode("latin-1", "replace"))


class AnswerHead:
    """The writer of edited heads, and the lines to add."""

    __slots__ = ("lines", "write")

    def __init__(self, write: Callable[..., bytes], lines: bytes) -> None:
        self.write = write
        self.lines = lines


class AnswerEdits:
    """The edits of one exchange's answer."""

    __slots__ = ("_mask", "_rules", "_transform", "_values", "alters", "scan")

    def __init__(
        self, rules: AnswerRules, transform: Transform, mask: int, scan: int, values: list[str | None]
    ) -> None:
        """`scan`: what the body is, if it is edited: a SCAN_*, else 0."""
        self._rules = rules
        self._transform = transform
        self._mask = mask
        self._values = values
        self.scan = scan
        self.alters = scan != 0

    def head(self, x: Exchange) -> AnswerHead:
        """Return the edits of the head, once the answer is known to be translated (`x.answer_lines`) or not."""
        return self._rules.head(self._mask, bool(x.answer_lines))

    def document(self, body: bytes) -> bytes:
        """Return a whole body, edited when it is a JSON document."""
        return self._transform.edit(body, self._mask, self._values) if self.scan == _DOCUMENT else body

    def pump(self, x: Exchange, head: ResponseHead, adapter: Adapting) -> Any:
        """Return the pump of a body that arrives in pieces, with its edits behind the adapter's pump."""
        if not self.scan:
            return adapter.body(x, head)
        frames, x.chunked = x.chunked, False
        inner = adapter.body(x, head)
        x.chunked = frames
        is_translated = x.answer_lines is not None
        if not is_translated:
            x.answer_lines = b""  # the upstream's own bytes are the inner pump's
        edits: EventTransform | Document = (
            EventTransform(self._transform, self._mask, self._values) if self.scan == _EVENTS else Document(self, x)
        )
        return EditingPump(inner, inner.answer if is_translated else inner, edits, frames, is_translated)


class Document:
    """The edits of a document that arrives in pieces: at its end."""

    def __init__(self, edits: AnswerEdits, x: Exchange) -> None:
        self._edits = edits
        self._label = x.target.label
        self._pieces = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Keep a piece."""
        self._pieces += data
        if len(self._pieces) > MAX_DOCUMENT_BYTES:
            raise UpstreamProtocolError(f"upstream {self._label} sent too large a document")
        return b""

    def finish(self) -> bytes:
        """Return the edited document."""
        return self._edits.document(bytes(self._pieces))


class EditingPump:
    """Edits a body behind the pump of its adapter. What that says about the upstream's body, this says too."""

    def __init__(
        self, inner: Any, answer: Any, edits: EventTransform | Document, frames: bool, is_translated: bool
    ) -> None:
        self.answer = answer  # the native pump that scans the upstream's bytes
        self.passed = 0  # body bytes for the client, without framing
        self._inner = inner
        self._edits = edits
        self._frames = frames
        self._is_translated = is_translated
        self._is_finished = False
        self._text = b""

    def feed(self, data: bytes) -> bytes | None:
        """Edit a read's bytes; None when nothing comes of them yet."""
        data = self._inner.feed(data) or b""
        if not data:
            return None
        if not self._is_translated and len(self._text) < TEXT_BYTES:
            self._text += data
        return self._framed(self._edits.feed(data)) or None

    def finish(self) -> bytes:
        """Return the end of the edited body, and of its framing; nothing when called again."""
        if self._is_finished:
            return b""
        self._is_finished = True
        rest = self._inner.finish()
        out = self._edits.feed(rest) if rest else b""
        out = self._framed(out + self._edits.finish())
        return out + b"0\r\n\r\n" if self._frames else out

    @property
    def text(self) -> bytes:
        """The beginning of the body, as the upstream sent it."""
        return self._inner.text if self._is_translated else self._text

    @property
    def between_events(self) -> bool:
        """BodyPump's."""
        between: bool = self._inner.between_events
        return between

    @property
    def end(self) -> int:
        """BodyPump's."""
        end: int = self._inner.end
        return end

    @property
    def fault(self) -> str | None:
        """BodyPump's."""
        fault: str | None = self._inner.fault
        return fault

    @property
    def seen(self) -> int:
        """BodyPump's."""
        seen: int = self._inner.seen
        return seen

    def _framed(self, data: bytes) -> bytes:
        self.passed += len(data)
        return chunk(data) if data and self._frames else data
