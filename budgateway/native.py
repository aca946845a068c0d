"""The only importer of the compiled core: checks that it is the one this Python was written for."""

from __future__ import annotations

from budgateway import _native
from budgateway._native import (
    BUILD_PROFILE,
    CHUNKED,
    DURATION_BOUNDS_S,
    ENCODED,
    GAUGE_CONNECTIONS,
    GAUGE_EXCHANGES,
    GAUGE_POOL_BUSY,
    GAUGE_POOL_IDLE,
    JSON,
    MULTIPART,
    OVERHEAD_BOUNDS_S,
    VERDICT_FAILURE,
    VERDICT_NEUTRAL,
    VERDICT_SUCCESS,
    AccessLog,
    BodyPeek,
    BodyPump,
    ChunkScanner,
    Ledger,
    Metrics,
    ModelRewriter,
    Peeker,
    RateLimit,
    RequestHead,
    RequestHeadWriter,
    ResponseHead,
    ResponseHeadWriter,
    RouteTable,
    Segment,
    Selector,
    Series,
    UsageScanner,
)

__all__ = [
    "BUILD_PROFILE",
    "CHUNKED",
    "DURATION_BOUNDS_S",
    "ENCODED",
    "GAUGE_CONNECTIONS",
    "GAUGE_EXCHANGES",
    "GAUGE_POOL_BUSY",
    "GAUGE_POOL_IDLE",
    "JSON",
    "MULTIPART",
    "OVERHEAD_BOUNDS_S",
    "VERDICT_FAILURE",
    "VERDICT_NEUTRAL",
    "VERDICT_SUCCESS",
    "AccessLog",
    "BodyPeek",
    "BodyPump",
    "ChunkScanner",
    "Ledger",
    "Metrics",
    "ModelRewriter",
    "Peeker",
    "RateLimit",
    "RequestHead",
    "RequestHeadWriter",
    "ResponseHead",
    "ResponseHeadWriter",
    "RouteTable",
    "Segment",
    "Selector",
    "Series",
    "UsageScanner",
]

# Bumped together with `ABI` in native/src/lib.rs, whenever a signature in `_native.pyi` changes.
ABI = 2

if _native.ABI != ABI:
    raise ImportError(f"budgateway._native has ABI {_native.ABI}, this package needs {ABI}: run `make native`")
