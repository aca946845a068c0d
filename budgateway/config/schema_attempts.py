"""The operator's words for further attempts: keys of routes and providers, and the table [retries]."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from budgateway.config.words import Seconds, Size, Table, Text
from budgateway.records import FallbackReason


class FallbackConfig(Table):
    """Where a route's requests go when its provider fails them."""

    provider: str
    """The name of a `[providers.X]` table."""
    model: Text | None = None
    """What its upstreams are told instead of the client's model; default as the provider's own settings have it."""


def fallback_tables(value: object) -> object:
    """A fallback may be its provider's name alone; a lone one stands for a list."""
    items: list[Any] = value if isinstance(value, list) else [value]
    return [{"provider": item} if isinstance(item, str) else item for item in items]


class HedgeConfig(Table):
    """When a second upstream is asked beside a first one that is slow; the one that answers first is believed."""

    after: Seconds | None = None
    """Seconds until the first one's answer (of a stream: its first event) is late."""
    percentile: Annotated[int, Field(ge=50, le=99)] | None = None
    """It is late when so many percent of this route's answers of late had begun; with `after`, not before that."""

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if self.after is None and self.percentile is None:
            raise ValueError("says nothing: set after, percentile, or both")
        return self


def hedge_table(value: object) -> object:
    """Seconds alone, or a percentile such as "p95"."""
    if isinstance(value, str) and (found := re.fullmatch(r"[pP](\d\d)", value.strip())):
        return {"percentile": int(found[1])}
    return value if isinstance(value, dict) else {"after": value}


HedgeWord = Annotated[str, Field(pattern=r"^\s*[pP][5-9]\d\s*$")]
HedgeKey = Annotated[
    HedgeConfig,
    BeforeValidator(hedge_table, json_schema_input_type=Seconds | HedgeWord | HedgeConfig),
]
Fallbacks = Annotated[
    list[FallbackConfig],
    BeforeValidator(fallback_tables, json_schema_input_type=str | FallbackConfig | list[str | FallbackConfig]),
]
Status = Annotated[int, Field(ge=400, le=599)]


class AttemptKeys(Table):
    """What a route says of further attempts."""

    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts on each provider, the first among them."""
    retry_on: list[Status] = [429, 502, 503, 504]
    """Answers after which another upstream is asked."""
    fallback: Fallbacks = []
    """Providers to go to in turn when the route's own fails: names, or tables with `provider` and `model`."""
    fallback_on: list[FallbackReason] = ["error", "429", "5xx"]
    """When: `error` (no answer, or none that counts), `429` (and 503), `5xx`, `context_length`."""
    hedge: HedgeKey | None = None
    """Ask a second upstream beside one that is slow: seconds, "p95", or a table with `after` and `percentile`; default never."""
    stream_keepalive: Seconds | None = None
    """A comment goes into a stream that is silent for so long; default none. The answer has then begun."""


class HoldKeys(Table):
    """What a provider says of the beginning of its answers."""

    hold_bytes: Size | Annotated[int, Field(ge=0, le=0)] = 64 << 10
    """How much of an answer is held until it has shown that it is one; 0 passes everything on at once."""
    first_event_timeout: Seconds | None = None
    """Seconds until a stream's first event, where another upstream could be asked; default half of the route's timeout."""


class RetriesConfig(Table):
    """How many exchanges of a provider may be tried again."""

    percent: Annotated[int, Field(ge=0, le=100)] = 20
    """Share of them."""
    reserve: Annotated[int, Field(ge=0, le=1000)] = 3
    """And as many on top."""
