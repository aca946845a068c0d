"""The adapter that passes bodies on: both sides speak one dialect, so only members are spliced. All adapters' base."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from budgateway.exchange.cached_plan import CachedBody, Part
from budgateway.exchange.response_check_cy import scan_of
from budgateway.native import BodyPump, ModelRewriter
from budgateway.wire.dialects import DIALECTS
from budgateway.wire.error_response import body_bytes, event_bytes

if TYPE_CHECKING:
    from budgateway.errors import GatewayError
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.native import ResponseHead
    from budgateway.records import Provider

_CHUNKED = 2


class Passthrough:
    """The adapter for all servers that speak the client's dialect: vLLM, SGLang, LiteLLM and others differ only in
    settings.

    A destination has one adapter for each dialect of its clients. The relay calls `request` once before the first
    attempt there; retries and hedges send the same again. It calls `document` or `body` for each answer that is passed
    on, and `error` when the gateway answers with an error. Responses are checked, and their usage is read, before they
    get here: an adapter sees only what its client will get.
    """

    def __init__(self, provider: Provider, model: str = "") -> None:
        """`model`, when set, replaces every model name sent upstream."""
        self.translates = False
        self.provider = provider
        self._told = json.dumps(model).encode() if model else None
        # The client's model name -> the JSON text of the upstream's name.
        self._aliases = {said: json.dumps(told).encode() for said, told in provider.aliases}
        self._prefix = provider.strip_model_prefix
        self._has_patterns = bool(provider.alias_patterns)
        self._asks = tuple(provider.stream_usage and dialect.usage_option for dialect in DIALECTS)

    def request(self, x: Exchange) -> None:
        """Set what is sent upstream: `x.send_body`, and `x.head_edits` where target or header lines differ from the
        client's. Raises a GatewayError when the request has no form in the upstream's dialect.

        Here: the client's body, with the model renamed when the upstream's name differs, and with a request for a
        stream's usage when the client made none. A WebSocket's handshake gets its model."""
        x.send_body = x.body
        if x.peek is None:
            if x.handshake is not None:
                told_name = self.provider.upstream_model(x.model)
                x.handshake.model = "" if told_name == x.model else told_name
            return
        told = self._upstream_name(x.model)
        asking: bytes | None = None
        if x.streams and self._asks[x.dialect]:
            asking = x.peek.asking_options
        if asking is not None:
            x.keeps_usage = True
        elif told is None:
            return
        edits: list[tuple[str, bytes | None]] = []
        if told is not None:
            x.rename = True
            edits.append(("model", told))
        if asking is not None:
            edits.append(("stream_options", asking))
        x.send_body = x.peek.rewrite(edits)

    def _upstream_name(self, model: str) -> bytes | None:
        """Return the upstream's name of a model, as JSON; None when it is the client's."""
        if not model:
            return None
        told = self._told
        if told is None:
            told = self._aliases.get(model)
            if told is None and (self._has_patterns or (self._prefix and model.startswith(self._prefix))):
                name = self.provider.upstream_model(model)
                told = None if name == model else json.dumps(name).encode()
        return told

    def alters(self, x: Exchange) -> bool:
        """Return whether the answer's body may get longer or shorter on its way."""
        return x.rename and x.status < 300 and scan_of(x.response_flags) != 0

    def document(self, x: Exchange, head: ResponseHead) -> bytes | None:
        """Return the body to send for an answer that has arrived whole (`head.body()`), or None to send it as it came.
        An adapter that translates sets `x.answer_lines`, which replace the headers that describe the body.

        Raises a GatewayError for an answer that cannot be understood: another upstream may be asked."""
        if not self.alters(x):
            return None
        rewriter = ModelRewriter(False, x.model)
        return rewriter.feed(head.body() or b"") + rewriter.finish()

    def body(self, x: Exchange, head: ResponseHead) -> Any:
        """Return the pump for a body that arrives in pieces, set up for the client's framing (`x.chunked`). Its
        contract is BodyPump's: `feed`, `finish`, `end`, `fault`, `seen`, `between_events` and `passed`. Sets
        `x.answer_lines` like `document`; the pump then has two more attributes: `answer`, the BodyPump that scanned
        the upstream's bytes, and `text`, the beginning of these bytes."""
        flags = x.response_flags
        scan = scan_of(flags)
        is_good = x.status < 300
        # A stream with a content-length keeps the usage event that the client did not request.
        keeps_usage = x.keeps_usage and x.sse and is_good and x.declared_length < 0
        # A model's output holds no secret of ours; what an upstream says about itself may hold one.
        hides = x.target.redactor if scan != 0 or not is_good else None
        name = x.model if x.rename and is_good and scan != 0 else None
        return BodyPump((flags & _CHUNKED) != 0, x.chunked, scan, name, keeps_usage, hides, x.sse and is_good)

    def error(self, x: Exchange, error: GatewayError) -> bytes:
        """Return an error of the gateway in the client's dialect: as the body of a response, or, when the head was
        sent, as an event of the stream."""
        if x.head_sent:
            return event_bytes(error, x.request_id, x.dialect)
        return body_bytes(error, x.request_id, x.dialect)

    def cached_plan(self, x: Exchange) -> Part | None:
        """The adapter's part of a cached plan: the upstream's name of the model. None when more was edited. An adapter
        of another class must see every request, unless it overrides this."""
        if type(self) is not Passthrough or x.keeps_usage or x.head_edits is not None:
            return None
        return CachedBody(self._upstream_name(x.model) if x.rename else None)
