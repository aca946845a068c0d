"""Records each ended exchange: one row of metrics, one access line."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from budgateway.exchange.exchange_cy import REFUSED, Exchange
from budgateway.native import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.errors import GatewayError
    from budgateway.native import AccessLog, Metrics, Price

# Cells of the ledger's row.
_ROUTE = 0
_PROVIDER = 1
_MODEL = 2
_STATUS = 3
_OUTCOME = 4
_ATTEMPTS = 5
_STREAM = 6
_BYTES_IN = 7
_BYTES_OUT = 8
_UNIX_MS = 9
_DURATION = 10
_OVERHEAD = 11
_FIRST_BYTE = 12
_NOW = 13
_ASKED = 14
_RETRIES = 15
_CELLS = 16


class Recorder:
    """Records a worker's exchanges. `access` is None when the access log is off."""

    def __init__(
        self,
        metrics: Metrics,
        access: AccessLog | None,
        epoch_ns: int,
        block_bytes: int,
        flush: Callable[[], None] | None,
    ) -> None:
        """`epoch_ns` plus a monotonic time is wall time; `flush` is called above `block_bytes` of unwritten lines."""
        row = array("q", bytes(8 * _CELLS))
        self._row = row
        self.ledger = Ledger(metrics, access, row)
        self._record = self.ledger.record
        self.epoch_ns = epoch_ns
        self.block_bytes = block_bytes
        self.flush = flush

    def record(
        self,
        x: Exchange,
        outcome: int,
        route_label: int,
        provider_label: int,
        upstream: str,
        price: Price | None,
        now_ns: int,
    ) -> None:
        """Count an exchange that ended now, settle its limits by actual usage, and write its access line. `upstream` is
        the label of the last attempt's target."""
        row = self._row
        row[_ROUTE] = route_label
        row[_PROVIDER] = provider_label
        row[_MODEL] = x.model_label
        row[_STATUS] = x.status
        row[_OUTCOME] = outcome
        row[_ATTEMPTS] = x.attempts
        row[_STREAM] = x.sse
        row[_BYTES_IN] = x.body_bytes
        row[_BYTES_OUT] = x.bytes_out if x.pump is None else x.bytes_out + x.pump.passed
        row[_UNIX_MS] = (self.epoch_ns + x.started_ns) // 1_000_000
        row[_DURATION] = now_ns - x.started_ns
        row[_OVERHEAD] = x.overhead_ns
        # Clients of a stream wait for its first token; its head may come long before.
        first_ns = x.token_ns if x.sse else x.first_byte_ns
        row[_FIRST_BYTE] = first_ns - x.started_ns if first_ns else 0
        row[_RETRIES] = x.retries
        row[_NOW] = now_ns
        row[_ASKED] = x.asked
        principal = tenant = None
        if x.principal is not None:
            principal = x.principal.id
            tenant = x.principal.tenant
        waiting = self._record(
            x.head,
            x.pump,
            x.document,
            x.grant,
            price,
            x.request_id,
            x.client,
            principal,
            tenant,
            upstream,
            x.model,
            x.error or None,
        )
        if waiting > self.block_bytes and self.flush is not None:
            self.flush()

    def used(self) -> tuple[int, int]:
        """The usage of the exchange recorded last: tokens and micro-dollars."""
        return self.ledger.used

    def refuse(self, client: str, request_id: str, error: GatewayError, now_ns: int) -> None:
        """Count a request that never became an exchange."""
        row = self._row
        for cell in range(_CELLS):
            row[cell] = 0
        row[_STATUS] = error.status
        row[_OUTCOME] = REFUSED
        row[_UNIX_MS] = (self.epoch_ns + now_ns) // 1_000_000
        self._record(None, None, None, None, None, request_id, client, None, None, "", "", error.code)
