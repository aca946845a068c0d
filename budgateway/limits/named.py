"""One limit with its name, and the text about it that clients read."""

from __future__ import annotations

from typing import NamedTuple

from budgateway import native

GATEWAY = "gateway"
ALLOWANCE = "allowance"
OWN = "\0"  # prefix of the names for the gateway's own paths; no route or rule name begins with it
BITS = {
    "user": native.BY_USER,
    "key": native.BY_KEY,
    "tenant": native.BY_TENANT,
    "model": native.BY_MODEL,
    "route": native.BY_ROUTE,
    "address": native.BY_ADDRESS,
}


class Named(NamedTuple):
    """One limit with its name: the source of the native core's limit and of the text that clients read."""

    name: str  # the rule's; "gateway", "route:NAME" and "allowance" for limits that are not rules
    by: int  # native.BY_*
    kind: str  # requests, tokens, concurrency, spend
    amount: int  # spend: micro-dollars
    period: str  # minute, hour, day, week, month; "" for concurrency
    burst: int
    whole: tuple[int, int] | None = None  # of one gateway's share: the undivided amount and burst

    @property
    def key(self) -> str:
        """The limit's unique key: limits with equal keys are one limit."""
        return f"{self.name}/{self.kind}/{self.period}"

    def divided(self, parts: int) -> Named:
        """The share of one of `parts` gateways, at least 1."""
        return self._replace(
            amount=max(1, self.amount // parts),
            burst=max(1, self.burst // parts) if self.burst else 0,
            whole=(self.amount, self.burst),
        )

    def words(self) -> str:
        """The limit's description in errors to clients."""
        rate = f"{self.amount} {self.kind} a {self.period}"
        if self.kind == "requests":
            rate += f", {self.burst} at once"
        if self.name == GATEWAY:
            return f"the gateway's limit of {rate}"
        if self.name.startswith(OWN):
            return f"the limit of {rate}, for the gateway's own paths"
        if self.name.startswith("route:"):
            return f"the limit of route '{self.name.removeprefix('route:')}', {rate}"
        if self.kind == "spend":
            rate = f"${self.amount / 1e6:.2f} a {self.period}"
        elif self.kind == "concurrency":
            rate = f"{self.amount} at a time"
        by = " and ".join(word for word, bit in BITS.items() if self.by & bit)
        whose = "of this credential" if self.name == ALLOWANCE else f"({'by ' + by if by else 'all together'})"
        return f"{rate} {whose}, limit '{self.name}'"
