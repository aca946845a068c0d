"""The adapter for OpenAI-compatible kinds: same dialect on both sides, so bodies pass and only members are spliced."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from budgateway.exchange.cached_plan import NOTHING, Part
from budgateway.wire.inference import tells_usage

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.records import Provider


class Passthrough:
    """The adapter for vLLM, SGLang, LiteLLM and all other servers of the OpenAI API: they differ only in settings."""

    def __init__(self, provider: Provider, model: str = "") -> None:
        """`model`, when set, replaces every model name sent upstream."""
        self._told = json.dumps(model).encode() if model else None
        # The client's model name -> the JSON text of the upstream's name.
        self._aliases = {said: json.dumps(told).encode() for said, told in provider.aliases}
        self._provider = provider
        self._prefix = provider.strip_model_prefix
        self._asks = provider.stream_usage

    def adapt(self, x: Exchange) -> None:
        """Set the exchange's `send_body`: the client's body, with the model renamed when the upstream's name differs,
        and with a request for a stream's usage when the client made none. A WebSocket's handshake gets its model."""
        x.send_body = x.body
        if x.peek is None:
            if x.handshake is not None:
                told_name = self._provider.upstream_model(x.model)
                x.handshake.model = "" if told_name == x.model else told_name
            return
        told = self._told
        if not x.model:
            told = None
        elif told is None:
            told = self._aliases.get(x.model)
            if told is None and self._prefix and x.model.startswith(self._prefix):
                told = json.dumps(self._provider.upstream_model(x.model)).encode()
        asking: bytes | None = None
        if x.streams and self._asks and x.head.method == "POST" and tells_usage(x.head.path):
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

    def cached_plan(self, x: Exchange) -> Part | None:
        """The adapter's part of a cached plan: NOTHING when the body passes unchanged, None when it was edited."""
        return None if x.rename or x.keeps_usage else NOTHING
