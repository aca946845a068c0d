"""The model list: what the providers serve, merged under the names that clients use."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from budgateway.admin.fetch import fetch
from budgateway.errors import GatewayError
from budgateway.wire.document import printable, read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.records import Provider
    from budgateway.transport.client_cy import Target

FRESH_S = 10.0
TIMEOUT_S = 3.0
MAX_MODELS = 4096  # of one upstream; hosted services list some hundreds
MAX_NAME = 256  # characters of a model's name
_MAX_COUNT = (1 << 53) - 1  # what every reader of JSON holds exactly

_log = logging.getLogger("budgateway.models")


class ModelCatalogue:
    """Asks the upstreams of providers that list no models; answers from memory for ten seconds. One asking at a time."""

    def __init__(self, providers: Sequence[tuple[Provider, Sequence[Target]]]) -> None:
        self._providers = providers
        self._models: list[dict[str, Any]] = []
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()

    async def models(self) -> list[dict[str, Any]]:
        """OpenAI's model objects, sorted by provider as configured, then as the upstream lists them."""
        async with self._asking:
            if time.monotonic() >= self._fresh_until:
                found = await asyncio.gather(*(self._of(provider, targets) for provider, targets in self._providers))
                merged: dict[str, dict[str, Any]] = {}
                for models in found:
                    for model in models:
                        merged.setdefault(model["id"], model)
                self._models = list(merged.values())
                self._fresh_until = time.monotonic() + FRESH_S
        return self._models

    async def _of(self, provider: Provider, targets: Sequence[Target]) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = [{"id": name} for name in provider.models]
        if not listed:
            for target in targets:
                try:
                    listed = await _ask(target)
                    break
                except (GatewayError, TimeoutError, ValueError) as error:
                    _log.warning(
                        "no model list from %s: %s",
                        target.label,
                        "timed out" if isinstance(error, TimeoutError) else error,
                    )
        named = [_model(provider, provider.strip_model_prefix + entry["id"], entry) for entry in listed]
        return named + [_model(provider, said, {}) for said, _ in provider.aliases]


async def _ask(target: Target) -> list[dict[str, Any]]:
    status, body = await fetch(target, "/v1/models", TIMEOUT_S)
    if status != 200:
        raise ValueError(f"status {status}")
    document = read_json(body)
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        raise ValueError("no model list in the answer")  # noqa: TRY004 - the upstream's data, not our types
    named = [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return [entry for entry in named if entry["id"] == printable(entry["id"], MAX_NAME)][:MAX_MODELS]


def _model(provider: Provider, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What the upstream says of a model, under our name for it."""
    return {
        **{key: count for key in ("max_model_len", "context_length") if (count := _count(entry.get(key)))},
        "id": name,
        "object": "model",
        "created": _count(entry.get("created")),
        "owned_by": provider.name,
    }


def _count(value: object) -> int:
    """A count or a time; 0 for what is none. Not every float is JSON, nor every whole number one that clients can read."""
    return int(value) if isinstance(value, int | float) and 0 <= value <= _MAX_COUNT else 0
