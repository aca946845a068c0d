"""Enters each ended exchange into the ledger."""

from __future__ import annotations

import json
from array import array
from typing import TYPE_CHECKING, Any

from budgateway.exchange.exchange_cy import REFUSED, Exchange
from budgateway.native import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.errors import GatewayError
    from budgateway.native import AccessLog, Price, Segment

# Cells of the ledger's row: `Ledger.CELLS`.
_ROUTE = 0
_PROVIDER = 1
_MODEL_LABEL = 2
_STATUS = 3
_OUTCOME = 4
_ATTEMPTS = 5
_RETRIES = 6
_IS_STREAM = 7
_IS_ASKED = 8
_BYTES_IN = 9
_BYTES_OUT = 10
_STARTED_NS = 11
_FIRST_NS = 12
_ENDED_NS = 13
_OVERHEAD_NS = 14
_CELLS = 15


MAX_LIST_BYTES = 1024  # of an access line, which has 4096


def _listed(names: tuple[str, ...]) -> str:
    """Return names as a JSON list that fits into an access line; those that do not are left out."""
    text = json.dumps(names)
    while len(text) > MAX_LIST_BYTES:
        names = names[:-1]
        text = json.dumps([*names, "..."])
    return text


class Recorder:
    """Records a worker's exchanges. `access` is None when the access log is off."""

    def __init__(
        self,
        segment: Segment,
        access: AccessLog | None,
        epoch_ns: int,
        block_bytes: int,
        flush: Callable[[], None] | None,
    ) -> None:
        """`epoch_ns` plus a monotonic time is wall time; `flush` is called above `block_bytes` of unwritten lines."""
        row = array("q", bytes(8 * _CELLS))
        self._row = row
        self.ledger = Ledger(segment, row, access=access, epoch_ns=epoch_ns)
        self._record = self.ledger.record
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
        """Enter an exchange that ended now into the ledger. `upstream` is the label of the last attempt's target."""
        row = self._row
        row[_ROUTE] = route_label
        row[_PROVIDER] = provider_label
        row[_MODEL_LABEL] = x.model_label
        row[_STATUS] = x.status
        row[_OUTCOME] = outcome
        row[_ATTEMPTS] = x.attempts
        row[_RETRIES] = x.retries
        row[_IS_STREAM] = x.sse
        row[_IS_ASKED] = x.request_sent
        row[_BYTES_IN] = x.body_bytes
        row[_BYTES_OUT] = x.bytes_out
        row[_STARTED_NS] = x.started_ns
        # Clients of a stream wait for its first token; its head may come long before.
        row[_FIRST_NS] = x.token_ns if x.sse else x.first_byte_ns
        row[_ENDED_NS] = now_ns
        row[_OVERHEAD_NS] = x.overhead_ns
        # The usage is the upstream's, read before translation; the bytes are those of the translation.
        answer: Any = x.document if x.pump is None else x.pump
        if x.pump is not None and x.answer_lines is not None:
            answer = x.pump.answer
            row[_BYTES_OUT] += x.pump.passed - answer.passed
        waiting = self._record(
            x.head,
            answer,
            x.reservation,
            price,
            x.principal,
            request_id=x.request_id,
            client=x.client,
            model=x.model,
            upstream=upstream,
            error=x.error,
            trace=x.trace,
            transforms=None if x.transforms is None else _listed(x.transforms),
        )
        if waiting > self.block_bytes and self.flush is not None:
            self.flush()

    def used(self) -> tuple[int, int]:
        """The usage of the exchange recorded last: tokens and micro-dollars."""
        return self.ledger.used

    def refuse(self, client: str, request_id: str, error: GatewayError, bytes_out: int, now_ns: int) -> None:
        """Enter a request that never became an exchange; `bytes_out` are those of the body that it got."""
        row = self._row
        for cell in range(_CELLS):
            row[cell] = 0
        row[_STATUS] = error.status
        row[_OUTCOME] = REFUSED
        row[_BYTES_OUT] = bytes_out
        row[_STARTED_NS] = now_ns
        row[_ENDED_NS] = now_ns
        self._record(
            None, None, None, None, None, request_id=request_id, client=client, model="", upstream="", error=error.code
        )
