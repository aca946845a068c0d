"""The adapter of the OpenAI-compatible kinds: same dialect on both sides, so bytes pass and only names are spliced."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budgateway.exchange_cy import Exchange
    from budgateway.records import Provider


class OpenAIAdapter:
    """vLLM, SGLang, LiteLLM and every other server of the OpenAI API: they differ in settings, not in bytes."""

    def __init__(self, provider: Provider, model: str = "") -> None:
        """`model` is what the upstreams are told in place of every name."""
        self._told = json.dumps(model).encode() if model else None
        # What clients say -> the JSON text that the upstream is told.
        self._aliases = {said: json.dumps(told).encode() for said, told in provider.aliases}
        self._provider = provider
        self._prefix = provider.strip_model_prefix

    def adapt(self, x: Exchange) -> None:
        """Put the body to send into the exchange: as it came, but for the model's name where the upstream has another."""
        body = x.body
        x.send_body = body
        if x.peek is None or not x.model:
            if x.handshake is not None:
                told_name = self._provider.upstream_model(x.model)
                x.handshake.model = "" if told_name == x.model else told_name
            return
        told = self._told
        if told is None:
            told = self._aliases.get(x.model)
        if told is None:
            if not self._prefix or not x.model.startswith(self._prefix):
                return
            told = json.dumps(self._provider.upstream_model(x.model)).encode()
        x.send_body = x.peek.rewrite((("model", told),))
        x.rename = True
