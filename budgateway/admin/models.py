"""The model list: the models that the providers serve, merged under the names that clients use."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from budgateway.errors import GatewayError
from budgateway.kinds import KINDS
from budgateway.transport.fetch import fetch
from budgateway.wire.document import printable, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from budgateway.records import Provider
    from budgateway.transport.client_cy import Target

FRESH_S = 10.0
TIMEOUT_S = 3.0
MAX_MODELS = 4096  # per upstream; hosted services list some hundreds
MAX_NAME = 256  # characters of a model's name
_MAX_TIME = 253402300799  # the end of the year 9999
_MAX_COUNT = (1 << 53) - 1  # the largest integer that every JSON reader holds exactly
# The wait for new lists while older ones exist: healthy engines answer within milliseconds.
MAX_WAIT_S = 0.5
AT_ONCE = 16  # concurrent requests

_log = logging.getLogger("budgateway.models")


class ModelCatalogue:
    """Queries the upstreams of providers without configured models concurrently, and caches the list for FRESH_S. One
    refresh runs at a time, bounded by TIMEOUT_S; callers wait for it no longer than MAX_WAIT_S once there is an older
    list."""

    def __init__(
        self,
        providers: Sequence[tuple[Provider, Sequence[Target]]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        is_well: Callable[[Target], bool] = lambda _: True,
    ) -> None:
        """`is_well` returns whether an upstream is worth a request: unhealthy ones are skipped."""
        self._providers = providers
        self._spawn = spawn
        self._is_well = is_well
        self._models: list[dict[str, Any]] = []
        # the last list of each provider, by name
        self._former: dict[str, list[dict[str, Any]]] = {}
        self._complaints: dict[str, str] = {}
        self._knows = False
        self._fresh_until = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def models(self) -> list[dict[str, Any]]:
        """Return OpenAI's model objects, ordered by provider as configured, then as its upstreams list them."""
        if time.monotonic() >= self._fresh_until:
            if self._asking is None or self._asking.done():
                self._asking = self._spawn(self._renew())
            asking = self._asking
            await asyncio.wait((asking,), timeout=MAX_WAIT_S if self._knows else None)
            if not self._knows:
                await asking  # raises its error
        return self._models

    async def _renew(self) -> None:
        room = asyncio.Semaphore(AT_ONCE)
        found = await asyncio.gather(*(self._of(provider, targets, room) for provider, targets in self._providers))
        merged: dict[str, dict[str, Any]] = {}
        for models in found:
            for model in models:
                merged.setdefault(model["id"], model)
        self._models = list(merged.values())
        self._knows = True
        self._fresh_until = time.monotonic() + FRESH_S

    async def _of(self, provider: Provider, targets: Sequence[Target], room: asyncio.Semaphore) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = [{"id": name} for name in provider.models]
        if not listed:
            path = KINDS[provider.kind].models_path.replace("{api_version}", provider.api_version)
            answers = await asyncio.gather(
                *(self._listed_by(target, path, room) for target in targets if self._is_well(target))
            )
            known = [answer for answer in answers if answer is not None]
            if known:
                self._former[provider.name] = [entry for answer in known for entry in answer]
            # While no upstream answers, the previous list stays.
            listed = self._former.get(provider.name, [])
        named = [_model(provider, provider.strip_model_prefix + entry["id"], entry) for entry in listed]
        return named + [_model(provider, said, {}) for said in provider.named_aliases]

    async def _listed_by(self, target: Target, path: str, room: asyncio.Semaphore) -> list[dict[str, Any]] | None:
        """Return one upstream's list; None when it has no valid list in time."""
        try:
            async with asyncio.timeout(TIMEOUT_S), room:
                listed = await _ask(target, path)
        except (GatewayError, TimeoutError, ValueError, RecursionError) as error:
            why = "timed out" if isinstance(error, TimeoutError) else str(error)
            if self._complaints.get(target.label) != why:
                self._complaints[target.label] = why
                _log.warning("no model list from %s: %s", target.label, why)
            return None
        self._complaints.pop(target.label, None)
        return listed


async def _ask(target: Target, path: str) -> list[dict[str, Any]]:
    status, body = await fetch(target, path, TIMEOUT_S)
    if status != 200:
        raise ValueError(f"status {status}")
    document = read_json(body)
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        raise ValueError("no model list in the response")  # noqa: TRY004 - the upstream's data, not our types
    named = [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return [entry for entry in named if entry["id"] == printable(entry["id"], MAX_NAME)][:MAX_MODELS]


def _model(provider: Provider, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the upstream's description of a model, under our name for it."""
    return {
        **{key: count for key in ("max_model_len", "context_length") if (count := _count(entry.get(key)))},
        "id": name,
        "object": "model",
        "created": _count(entry.get("created")),
        "owned_by": provider.name,
    }


def anthropic_model(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model's description in the shape that clients of Anthropic's API expect."""
    created = datetime.fromtimestamp(min(model["created"], _MAX_TIME), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": model["id"], "display_name": model["id"], "created_at": created}


def anthropic_list(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the list of models in the shape that clients of Anthropic's API expect: one page."""
    data = [anthropic_model(model) for model in models]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def _count(value: object) -> int:
    """Return a count or a time; 0 for anything else. Not every float is JSON, and clients cannot read every integer."""
    return int(value) if isinstance(value, int | float) and 0 <= value <= _MAX_COUNT else 0
