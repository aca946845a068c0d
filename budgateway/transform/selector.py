"""The selection of rules for an exchange."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.records import TransformRule
    from budgateway.wire.dialects import Dialect

MAX_MASKS = 1024  # selections that are remembered; clients may invent model names


class Selector:
    """Selects those of some rules that concern an exchange, as a mask of their places."""

    def __init__(self, rules: Sequence[TransformRule], dialects: Sequence[Dialect]) -> None:
        """`dialects` by `x.dialect`."""
        self._rules = tuple(rules)
        self._dialects = tuple(dialect.name for dialect in dialects)
        self._all = (1 << len(self._rules)) - 1
        self._is_fixed = not any(_varies(rule) for rule in rules)
        self._masks: dict[object, int] = {}

    def mask(self, x: Exchange) -> int:
        """Return the mask of the rules that concern an exchange."""
        if self._is_fixed:
            return self._all
        principal = x.principal
        who = None if principal is None else (principal.tenant, principal.roles)
        key = (x.model, who, x.dialect, x.head.method)
        known = self._masks.get(key)
        if known is None:
            dialect = self._dialects[x.dialect]
            known = self._chosen(
                rule
                for rule in self._rules
                if self._may_concern(rule, x)
                and (not rule.tenants or (principal is not None and _is_named(principal.tenant, rule.tenants)))
                and (not rule.dialects or dialect in rule.dialects)
                and (not rule.methods or x.head.method in rule.methods)
            )
            if len(self._masks) >= MAX_MASKS:
                self._masks.clear()
            self._masks[key] = known
        return known

    def concerns_none(self, x: Exchange) -> bool:
        """Return whether no rule can concern a request with the same model by a principal of the same class, whatever its
        tenant, its method and its dialect: a class may have several tenants."""
        return not any(self._may_concern(rule, x) for rule in self._rules)

    def _may_concern(self, rule: TransformRule, x: Exchange) -> bool:
        if rule.models and not _is_named(x.model, rule.models):
            return False
        principal = x.principal
        roles = () if principal is None else principal.roles
        return not rule.roles or any(_is_named(role, rule.roles) for role in roles)

    def _chosen(self, rules: Iterable[TransformRule]) -> int:
        return sum(1 << self._rules.index(rule) for rule in rules)


def _varies(rule: TransformRule) -> bool:
    """Return whether a rule concerns only some requests of a route."""
    return bool(rule.models or rule.tenants or rule.roles or rule.dialects or rule.methods)


def _is_named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
