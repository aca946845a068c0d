"""Cost of the protection against failures for a healthy exchange: one gateway with and without it, alternating.

    python -m benchmarks.resilience                  # CPU time, paired
    python -m benchmarks.resilience --instructions   # under callgrind (valgrind)

Four healthy upstreams. Without: no breaker, ejection, panic or slow start, no buffering or checking of responses, one
attempt, models ignored. With: all of it, a fallback and a retry budget; and with hedging, which is off by default. Both
include the few comparisons that every exchange pays for.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "micro"))

from test_exchange_bench import CHUNK, QUESTION, REQUEST, RESPONSE, STREAM_HEAD, Sink, settings

from benchmarks.paired import run
from budgateway import native
from budgateway.app.dataplane import DataPlane
from budgateway.records import (
    BreakerSettings,
    Fallback,
    Hedge,
    OutlierSettings,
    Provider,
    Retries,
    Settings,
    Upstream,
)
from budgateway.server.connection_cy import protocols
from budgateway.transport.client_cy import ClientConnection

UPSTREAMS = tuple(Upstream(url=f"http://127.0.0.1:{n}", tls=False, host="127.0.0.1", port=n) for n in range(1, 5))
# The question as it is asks for a stream.
ASKED = QUESTION.replace(b'"stream":true', b'"stream":false')
WHOLE = REQUEST.partition(b"content-length")[0] + b"content-length: %d\r\n\r\n%b" % (len(ASKED), ASKED)
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
EVENTS = (STREAM_HEAD + CHUNK, CHUNK, b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST), LAST))


def setups() -> dict[str, Settings]:
    """By name, what is compared."""
    whole = replace(settings(), access_log="off")
    one = Retries(max_attempts=1, statuses=())
    provider = Provider("vllm", "vllm", UPSTREAMS, slow_start_s=0.0, hold_bytes=0)
    bare = replace(
        whole, breaker=None, outliers=None, panic_percent=0, providers=(provider,),
        routes=(replace(whole.routes[0], retries=one),),
    )  # fmt: skip
    spare = Provider("spare", "vllm", UPSTREAMS[:1])
    several = Retries(fallbacks=(Fallback("spare"),))
    whole = replace(
        whole, breaker=BreakerSettings(failure_ratio=0.5), outliers=OutlierSettings(), panic_percent=50,
        providers=(Provider("vllm", "vllm", UPSTREAMS), spare),
        routes=(replace(whole.routes[0], retries=several, replay_inference=True),),
    )  # fmt: skip
    hedged = replace(whole.routes[0], retries=replace(several, hedge=Hedge(after_s=1.0, percentile=95)))
    return {"without": bare, "with": whole, "with, and hedging": replace(whole, routes=(hedged,))}


class Asked(Sink):
    """An upstream's transport, which says whose it is when it is written to."""

    def __init__(self, told: list[Any]) -> None:
        super().__init__()
        self.connection: Any = None
        self._told = told

    def write(self, data: bytes) -> None:
        self._told[0] = self.connection


class Driven:
    """A data plane with both its ends in hand."""

    def __init__(self, settings: Settings, stream: bool) -> None:
        segment = native.Segment(1)
        self.plane = DataPlane(settings, segment, 0, "/nowhere")
        self._request, self._pieces = (REQUEST, EVENTS) if stream else (WHOLE, (RESPONSE,))
        self._sink = Sink()
        self._client: Any = protocols(self.plane.server_state)()
        self._client.connection_made(self._sink)
        self._told: list[Any] = [None]
        for target in self.plane.snapshot.providers["vllm"]:
            transport = Asked(self._told)
            upstream: Any = ClientConnection(target.pool, self.plane.relay)
            transport.connection = upstream
            upstream.connection_made(transport)
            upstream.idle_since_ns = time.monotonic_ns()
            target.pool.put(upstream)
        if settings.outliers is not None:
            # As probes find them.
            for one in UPSTREAMS:
                segment.judge(segment.upstream(one.url), True, time.monotonic_ns())
                segment.set_models(segment.upstream(one.url), ["m", "llama"])
            self.plane._follow_models()

    def exchanges(self, count: int) -> float:
        """Microseconds of CPU that one took."""
        request, pieces, asked, told = self._request, self._pieces, self._client.data_received, self._told
        before, began = self._sink.writes, time.process_time_ns()
        for _ in range(count):
            asked(request)
            answered = told[0].data_received
            for piece in pieces:
                answered(piece)
        took = time.process_time_ns() - began
        assert self._sink.writes == before + count * len(pieces)
        if self.plane._access is not None:
            self.plane._access.flush()
        return took / count / 1e3


if __name__ == "__main__":
    run(
        "benchmarks.resilience",
        __doc__,
        {
            f"{kind}: {name}": partial(Driven, chosen, kind == "stream")
            for kind in ("document", "stream")
            for name, chosen in setups().items()
        },
    )
