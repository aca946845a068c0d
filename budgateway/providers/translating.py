"""The base of adapters that translate: documents and event streams of another dialect, in plain Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from budgateway.errors import UnsupportedCoding, UpstreamError, UpstreamProtocolError
from budgateway.exchange.response_check_cy import scan_of
from budgateway.native import BodyPump
from budgateway.providers.passthrough_cy import Passthrough

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.native import ResponseHead
    from budgateway.records import Provider

_CHUNKED = 2
_SCAN_EVENTS = 2

JSON_LINES = b"content-type: application/json\r\n"
EVENT_LINES = b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024  # a larger answer in pieces is not translated: it would have to be kept whole
TEXT_BYTES = 64 * 1024  # kept of an answer that is being checked: an error's text is shorter


class Events(Protocol):
    """The translation of one stream."""

    def feed(self, data: bytes) -> bytes:
        """Translate bytes of the upstream's stream, cut anywhere; return whole events of the client's dialect."""
        ...

    def finish(self) -> bytes:
        """Return the closing events. Called only for a stream that ended as its API says."""
        ...


class Translating(Passthrough):
    """An adapter between two dialects. Subclasses override `request`, `answer` and `events`."""

    def __init__(self, provider: Provider, model: str = "") -> None:
        super().__init__(provider, model)
        self.translates = True
        self._model = model

    def request(self, x: Exchange) -> None:
        """Set `x.send_body` and `x.head_edits`. `source` gives the body to translate."""
        raise NotImplementedError

    def answer(self, x: Exchange, body: bytes) -> bytes:
        """Translate a whole JSON document, which is an error when `x.status` says so."""
        raise NotImplementedError

    def events(self, x: Exchange) -> Events:
        """Return the translation of a stream that begins now."""
        raise NotImplementedError

    # ---------------------------------------------------------------- for subclasses

    def source(self, x: Exchange) -> bytes:
        """Return the request's JSON body. UnsupportedCoding when it cannot be read."""
        if x.peek is None or x.body is None:
            raise UnsupportedCoding("this model is served in another dialect, and the gateway cannot read the request")
        return x.body

    def model_of(self, x: Exchange) -> str:
        """Return the upstream's name for the exchange's model."""
        return self._model or self.provider.upstream_model(x.model)

    # ---------------------------------------------------------------- the adapter's contract

    def alters(self, x: Exchange) -> bool:
        """Return True: a translated body has a length of its own."""
        return True

    def document(self, x: Exchange, head: ResponseHead) -> bytes | None:
        """Translate an answer that has arrived whole; what is no JSON passes, if it is an error."""
        if not self._is_readable(x):
            return None
        body = head.body() or b""
        if x.target.redactor is not None:
            body = x.target.redactor.blot(body)
        x.answer_lines = JSON_LINES
        return self.answer(x, body)

    def body(self, x: Exchange, head: ResponseHead) -> Any:
        """Return a pump that translates events as they come, or a document at its end."""
        if not self._is_readable(x):
            return super().body(x, head)
        scan = scan_of(x.response_flags)
        is_stream = scan == _SCAN_EVENTS
        x.answer_lines = EVENT_LINES if is_stream else JSON_LINES
        source = BodyPump(
            (x.response_flags & _CHUNKED) != 0,
            False,
            scan,
            None,
            False,
            x.target.redactor,
            is_stream and x.status < 300,
        )
        return TranslatingPump(source, self.events(x) if is_stream else Document(self, x), x.chunked)

    def _is_readable(self, x: Exchange) -> bool:
        """Return whether an answer can be translated. UpstreamError for a success that cannot."""
        if scan_of(x.response_flags) != 0:
            return True
        if x.status < 300:
            raise UpstreamError(f"upstream {x.target.label} answered with what is neither JSON nor an event stream")
        return False


class Document:
    """The translation of a document that arrives in pieces: at its end."""

    def __init__(self, adapter: Translating, x: Exchange) -> None:
        self._adapter = adapter
        self._exchange = x
        self._pieces = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Keep a piece."""
        self._pieces += data
        if len(self._pieces) > MAX_DOCUMENT_BYTES:
            raise UpstreamProtocolError(f"upstream {self._exchange.target.label} sent too large a document")
        return b""

    def finish(self) -> bytes:
        """Translate the document."""
        return self._adapter.answer(self._exchange, bytes(self._pieces))


class TranslatingPump:
    """Moves a body from the upstream's framing and dialect to the client's. What a BodyPump says about the body, this
    says too: about the upstream's, before translation."""

    def __init__(self, answer: BodyPump, events: Events, frame: bool) -> None:
        """`answer` unframes and scans the upstream's bytes; `frame`: the client gets chunks."""
        self.answer = answer
        self.events = events
        self.passed = 0  # body bytes for the client, without framing
        self.between_events = True  # only whole events are written
        self.text = b""
        self._is_finished = False
        self._frames = frame

    def feed(self, data: bytes) -> bytes | None:
        """Translate a read's bytes; None when nothing comes of them yet."""
        data = self.answer.feed(data) or b""
        if not data:
            return None
        if len(self.text) < TEXT_BYTES:
            self.text += data
        return self._framed(self.events.feed(data)) or None

    def finish(self) -> bytes:
        """Return the end of the translated body, and of its framing; nothing when called again."""
        if self._is_finished:
            return b""
        self._is_finished = True
        rest = self.answer.finish()
        out = self.events.feed(rest) if rest else b""
        out = self._framed(out + self.events.finish())
        return out + b"0\r\n\r\n" if self._frames else out

    @property
    def end(self) -> int:
        """BodyPump's."""
        return self.answer.end

    @property
    def fault(self) -> str | None:
        """BodyPump's."""
        return self.answer.fault

    @property
    def seen(self) -> int:
        """BodyPump's."""
        return self.answer.seen

    def _framed(self, out: bytes) -> bytes:
        self.passed += len(out)
        return b"%x\r\n%b\r\n" % (len(out), out) if out and self._frames else out
