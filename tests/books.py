"""A ledger with its numbers by name, for tests."""

from __future__ import annotations

from array import array

from budgateway.native import AccessLog, BodyPump, Ledger, Price, RequestHead, Segment
from budgateway.records import Principal


class Books:
    """Enters exchanges into a ledger; numbers that are not given are 0."""

    def __init__(self, segment: Segment, access: AccessLog | None = None, epoch_ns: int = 0) -> None:
        self._row = array("q", bytes(8 * len(Ledger.CELLS)))
        self._ledger = Ledger(segment, self._row, access=access, epoch_ns=epoch_ns)

    def enter(
        self,
        *,
        head: RequestHead | None = None,
        answer: BodyPump | bytes | None = None,
        price: Price | None = None,
        principal: str = "",
        tenant: str = "",
        request_id: str = "",
        client: str = "",
        model: str = "",
        upstream: str = "",
        error: str = "",
        **numbers: int,
    ) -> int:
        """Enter one exchange; `numbers` are cells of the row, by `Ledger.CELLS`."""
        for cell, name in enumerate(Ledger.CELLS):
            self._row[cell] = numbers.pop(name, 0)
        assert not numbers, numbers
        return self._ledger.record(
            head,
            answer,
            None,
            price,
            Principal(id=principal, tenant=tenant),
            request_id=request_id,
            client=client,
            model=model,
            upstream=upstream,
            error=error,
        )

    def used(self) -> tuple[int, int]:
        """Tokens and micro-dollars of the exchange entered last."""
        return self._ledger.used
