"""Translation between the big APIs' dialects, by the native vocabulary: requests, documents, streams and errors."""

from __future__ import annotations

from functools import partial
from time import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from budgateway.errors import UpstreamError
from budgateway.exchange.reply import Reply
from budgateway.exchange.response_check_cy import scan_of
from budgateway.native import BodyPump, HeadEdits, Translator
from budgateway.providers.translating import EVENT_LINES, JSON_LINES, Translating, TranslatingPump
from budgateway.providers.translation.faults import translated_error

if TYPE_CHECKING:
    from budgateway.errors import GatewayError
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.native import ResponseHead
    from budgateway.providers.registry import Maker
    from budgateway.records import Provider

_CHUNKED = 2
_SCAN_EVENTS = 2

_OPENAI_HOST = "api.openai.com"
_ENGINES = ("vllm", "sglang")
# Clients' headers that belong to their own API.
_VENDORS = (
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "openai-beta",
    "openai-organization",
    "openai-project",
)
_GEMINI = "gemini.generate"
# What requests and streams ask for; Gemini's paths name the model.
_TARGETS = {
    "openai.chat": ("/v1/chat/completions", "/v1/chat/completions"),
    "anthropic.messages": ("/v1/messages", "/v1/messages"),
    _GEMINI: ("/v1beta/models/MODEL:generateContent", "/v1beta/models/MODEL:streamGenerateContent?alt=sse"),
}
_KEY_REFUSED = (401, 403)
# Headers that an upstream's API requires.
_LINES = {"anthropic.messages": (("anthropic-version", "2023-06-01"),)}


class Translated(Translating):
    """The adapter between two dialects that the native vocabulary knows."""

    def __init__(self, client: str, upstream: str, provider: Provider, model: str = "") -> None:
        super().__init__(provider, model)
        self._client = client
        self._translator = Translator(client, upstream, provider.name, **_abilities(provider, upstream))
        self._upstream = upstream
        self._lines = (("content-type", "application/json"), *_LINES.get(upstream, ()))
        self._dropped = [name for name in _VENDORS if name not in dict(self._lines)]
        self._edits = [self._edits_of("MODEL", streams) for streams in (False, True)]
        self._disclosure = f"x-budgateway-dialect: {client}>{upstream}\r\n".encode()

    def request(self, x: Exchange) -> None:
        """Translate the request. UnsupportedField for what the upstream's dialect has no form for."""
        model = self.model_of(x)
        translation = self._translator.request(self.source(x), model)
        x.translation = translation
        x.send_body = translation.body
        is_named = self._upstream == _GEMINI
        x.head_edits = self._edits_of(quote(model, safe=""), x.streams) if is_named else self._edits[x.streams]

    def _edits_of(self, model: str, streams: bool) -> HeadEdits:
        """Return the head's changes for a request that streams, or does not."""
        accept = ("accept", "text/event-stream" if streams else "application/json")
        target = _TARGETS[self._upstream][streams].replace("MODEL", model)
        return HeadEdits(target, [*self._lines, accept], self._dropped)

    def answer(self, x: Exchange, body: bytes) -> bytes:
        """Translate an error's document. UpstreamError when it concerns the gateway's own key: that is no fault of a
        client whose key is good."""
        if x.status in _KEY_REFUSED:
            error = UpstreamError(f"upstream {x.target.label} refused the gateway's key (status {x.status})")
            error.blames = False
            raise error
        return translated_error(x, body)

    def document(self, x: Exchange, head: ResponseHead) -> bytes | None:
        """Translate an answer that has arrived whole."""
        if x.status >= 300 or not self._is_readable(x):
            return super().document(x, head)
        self._describe(x)
        events = self._begin(x, is_stream=False)
        document: bytes = events.feed(head.body() or b"") + events.finish()
        return document

    def body(self, x: Exchange, head: ResponseHead) -> Any:
        """Return a pump that translates events as they come, or a document at its end. A client gets the form that it
        requested, whichever the upstream sends."""
        if x.status >= 300 or not self._is_readable(x):
            return super().body(x, head)
        scan = scan_of(x.response_flags)
        self._describe(x)
        source = BodyPump(
            (x.response_flags & _CHUNKED) != 0, False, scan, None, False, x.target.redactor, scan == _SCAN_EVENTS
        )
        return TranslatingPump(source, self._begin(x, is_stream=scan == _SCAN_EVENTS), x.chunked)

    def error(self, x: Exchange, error: GatewayError) -> bytes:
        """Return an error of the gateway in the client's dialect. In a stream of the Responses API it is one of the
        numbered events, and the response's end."""
        if x.head_sent and x.streams and self._client == "openai.responses" and isinstance(x.pump, TranslatingPump):
            events: Any = x.pump.events
            failed: bytes = events.fail("api_error", str(error))
            return failed
        return super().error(x, error)

    def _begin(self, x: Exchange, is_stream: bool) -> Any:
        translation: Any = x.translation  # set by `request`
        return translation.answer(x.request_id, x.model, int(time()), is_stream, x.streams)

    def _describe(self, x: Exchange) -> None:
        lines = EVENT_LINES if x.streams else JSON_LINES
        if x.target.disclosure:
            lines += self._disclosure
            if x.translation is not None and x.translation.dropped:
                lines += f"x-budgateway-dropped: {', '.join(x.translation.dropped)}\r\n".encode()
        x.answer_lines = lines


class Counting(Translating):
    """The adapter for counts of tokens at an upstream that cannot count: it answers with an estimate."""

    def __init__(self, client: str, upstream: str, provider: Provider, model: str = "") -> None:
        super().__init__(provider, model)
        # Nothing is refused: clients plan by the count, and ask again before the real request.
        abilities = _abilities(provider, upstream)
        abilities["drops"] = True
        self._translator = Translator(client, upstream, provider.name, **abilities)

    def request(self, x: Exchange) -> None:
        """Answer the request."""
        estimate = self._translator.request(self.source(x), self.model_of(x)).estimate
        x.reply = Reply(200, JSON_LINES, b'{"input_tokens":%d}' % estimate)
        x.answer_lines = b"x-budgateway-estimated: true\r\n"


def _abilities(provider: Provider, upstream: str) -> dict[str, Any]:
    """Return what a provider's server can do, by its kind and address, where its table does not say otherwise."""
    said = provider.translation
    is_openai = any(upstream.host == _OPENAI_HOST for upstream in provider.upstreams)
    is_engine = provider.kind in _ENGINES
    return {
        "is_openai": is_openai,
        "is_engine": is_engine,
        "drops": said.lossy == "drop",
        "limit_field": said.token_limit_field or ("max_completion_tokens" if is_openai else "max_tokens"),
        "reasoning_field": said.reasoning_field,
        "replays_reasoning": not is_openai if said.replay_reasoning is None else said.replay_reasoning,
        "inline_system": said.inline_system
        or ("keep" if is_openai else "hoist" if upstream == "anthropic.messages" else "fold"),
        "tool_images_inline": said.tool_images == "inline",
        "passes_unknown": is_engine,
        "default_max_tokens": said.default_max_tokens,
    }


_CLIENTS = ("openai.chat", "openai.responses", "anthropic.messages", "openai.completions")
_UPSTREAMS = ("openai.chat", "anthropic.messages", _GEMINI)
ADAPTERS: dict[tuple[str, str], Maker] = {
    (client, upstream): partial(Translated, client, upstream)
    for client in _CLIENTS
    for upstream in _UPSTREAMS
    if client != upstream
}
ADAPTERS |= {
    ("anthropic.count", upstream): partial(Counting, "anthropic.count", upstream)
    for upstream in _UPSTREAMS
    if upstream != "anthropic.messages"
}
