"""Configuration of retries, fallbacks and hedging: keys of routes and providers, and the table [retries]."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from budgateway.config.types import Seconds, Size, Table, Text
from budgateway.records import FallbackReason


class FallbackConfig(Table):
    """A provider that a route's requests go to when its own provider fails."""

    provider: str
    """The name of a `[providers.X]` table."""
    model: Text | None = None
    """Model to send to its upstreams instead of the client's; default: by the provider's own settings."""


def fallback_tables(value: object) -> object:
    """Turn a single fallback into a list, and a provider's name into a table."""
    items: list[Any] = value if isinstance(value, list) else [value]
    return [{"provider": item} if isinstance(item, str) else item for item in items]


class HedgeConfig(Table):
    """Hedging: send a request to a second upstream when the first is slow, and use the response that begins first."""

    after: Seconds | None = None
    """Seconds without a response (for a stream: without its first event) before the second attempt is sent."""
    percentile: Annotated[int, Field(ge=50, le=99)] | None = None
    """Send the second attempt after this percentile of the route's recent times to respond; `after` is the minimum."""

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if self.after is None and self.percentile is None:
            raise ValueError("is empty: set after, percentile, or both")
        return self


def hedge_table(value: object) -> object:
    """Turn seconds, or a percentile such as "p95", into a table."""
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
    """Keys of a route that control further attempts."""

    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Maximum attempts at each provider, including the first."""
    retry_on: list[Status] = [429, 502, 503, 504]
    """Response statuses after which another upstream is tried."""
    fallback: Fallbacks = []
    """Providers to try in order when the route's own fails: names, or tables with `provider` and `model`."""
    fallback_on: list[FallbackReason] = ["error", "429", "5xx"]
    """Reasons to fall back: `error` (no valid response), `429` (and 503), `5xx`, `context_length`."""
    hedge: HedgeKey | None = None
    """Send a slow request to a second upstream: seconds, "p95", or a table with `after` and `percentile`; default: never."""
    stream_keepalive: Seconds | None = None
    """Seconds of silence after which a comment is sent to a streaming client, which starts the response; default: never."""


class HoldKeys(Table):
    """Keys of a provider that control the beginning of its responses."""

    hold_bytes: Size | Annotated[int, Field(ge=0, le=0)] = 64 << 10
    """Bytes of a response to hold back until it is known to be no error; 0 passes everything on immediately."""
    first_event_timeout: Seconds | None = None
    """Seconds until a stream's first event while another upstream can be tried; default: half the route's timeout."""


class RetriesConfig(Table):
    """The retry budget: the share of a provider's exchanges that may be retried."""

    percent: Annotated[int, Field(ge=0, le=100)] = 20
    """Percentage of exchanges in flight that may be retries."""
    reserve: Annotated[int, Field(ge=0, le=1000)] = 3
    """Retries allowed in addition to the percentage."""
