"""What is kept of an exchange when it ends: one row of metrics, one access line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.exchange_cy import REFUSED, Exchange

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.errors import GatewayError
    from budgateway.native import AccessLog, Metrics


class Recorder:
    """One per worker. `access` is None when the access log is off."""

    def __init__(
        self,
        metrics: Metrics,
        access: AccessLog | None,
        epoch_ns: int,
        block_bytes: int,
        flush: Callable[[], None] | None,
    ) -> None:
        """`epoch_ns` makes a wall-clock time of a monotonic one; `flush` is called when `block_bytes` of lines wait."""
        self._observe = metrics.observe
        self._append = None if access is None else access.append
        self._epoch_ns = epoch_ns
        self._block_bytes = block_bytes
        self._flush = flush

    def record(self, x: Exchange, outcome: int, now_ns: int) -> None:
        """Count an exchange that ended now, and write its line."""
        route_label = provider_label = 0
        route = x.route
        if route is not None:
            route_label = route.label
            provider_label = route.provider_label
        tokens_in = tokens_out = tokens_cached = 0
        if x.scanner is not None:
            usage = x.scanner.usage
            if usage is not None:
                tokens_in, tokens_out, tokens_cached, _ = usage
        first_byte_ns = x.first_byte_ns - x.started_ns if x.first_byte_ns else 0
        self._observe(
            route_label,
            provider_label,
            x.model_label,
            x.status,
            outcome,
            now_ns - x.started_ns,
            x.overhead_ns,
            first_byte_ns,
            x.body_bytes,
            x.bytes_out,
            tokens_in,
            tokens_out,
        )
        if self._append is not None:
            target = x.target
            waiting = self._append(
                (self._epoch_ns + x.started_ns) // 1_000_000,
                x.head,
                x.request_id,
                x.client,
                "" if x.principal is None else x.principal.id,
                route_label,
                provider_label,
                "" if target is None else target.label,
                x.model,
                x.status,
                outcome,
                x.error,
                x.attempts,
                x.sse,
                x.body_bytes,
                x.bytes_out,
                now_ns - x.started_ns,
                x.overhead_ns,
                first_byte_ns,
                tokens_in,
                tokens_out,
                tokens_cached,
            )
            if waiting > self._block_bytes and self._flush is not None:
                self._flush()

    def refuse(self, client: str, request_id: str, error: GatewayError, now_ns: int) -> None:
        """Count a request that never became an exchange."""
        self._observe(0, 0, 0, error.status, REFUSED, 0, 0, 0, 0, 0, 0, 0)
        if self._append is not None:
            unix_ms = (self._epoch_ns + now_ns) // 1_000_000
            self._append(
                unix_ms, None, request_id, client, "", 0, 0, "", "", error.status, REFUSED, error.code,
                0, False, 0, 0, 0, 0, 0, 0, 0, 0,
            )  # fmt: skip
