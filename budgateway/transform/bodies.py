"""Rules for request bodies, compiled for one place: what clients send on a route, or what upstreams are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from budgateway.errors import NotTransformable
from budgateway.native import Transform
from budgateway.transform.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.records import Condition, Edit, TransformRule
    from budgateway.wire.dialects import Dialect

# The place of a system text, by dialect; others have none.
STYLES = {
    "openai.chat": "chat",
    "openai.responses": "responses",
    "anthropic.messages": "messages",
    "anthropic.count": "messages",
    "gemini.generate": "gemini",
}

# Words of native.Transform: conditions and operations.
Words = tuple[list[tuple[str, str, tuple[str, ...]]], list[tuple[str, str, str | None, str | None]]]


class Edited(NamedTuple):
    """A body after one rule."""

    rule: str
    body: bytes
    has_held: bool


class Sources:
    """The values that rules take from an exchange."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.names = tuple(dict.fromkeys(edit.word or "" for edit in edits if edit.kind == "set_from"))

    def values(self, x: Exchange) -> list[str | None]:
        """Return the values of an exchange, by the index of their names; None for what it does not have."""
        return [_value(x, name) for name in self.names]


class BodyRules:
    """Rules for request bodies in one place."""

    def __init__(self, rules: Sequence[TransformRule], clients: Sequence[Dialect], spoken: Sequence[str]) -> None:
        """`clients` are the dialects by `x.dialect`; `spoken` the names of those in which the bodies are then."""
        self.rules = tuple(rules)
        self._selector = Selector(self.rules, clients)
        self._sources = Sources([edit for rule in self.rules for edit in rule.request])
        self._strict = sum(1 << place for place, rule in enumerate(self.rules) if rule.strict)
        # By the client's dialect; those that have system texts in the same place share one.
        compiled = {style: self._compiled(style) for style in {STYLES.get(name, "") for name in spoken}}
        self._transforms = tuple(compiled[STYLES.get(name, "")] for name in spoken)

    def edit(self, x: Exchange, body: bytes | None, is_whole: bool) -> bytes | None:
        """Return the edited body of an exchange: the same object when nothing changes. `is_whole`: it has arrived, and
        is JSON. Raises BadRequest for a member that servers read differently, NotTransformable where a rule is strict."""
        mask = self._selector.mask(x)
        if not mask:
            return body
        if body is None or not is_whole:
            self._refuse(mask)
            return body
        applied = self._transforms[x.dialect].apply(body, mask, self._sources.values(x))
        if applied is None:
            self._refuse(mask)
            return body
        if applied[1]:
            note(x, [rule.name for place, rule in enumerate(self.rules) if applied[1] >> place & 1])
        return applied[0]

    def explain(self, x: Exchange, body: bytes) -> list[Edited]:
        """Return the body after each of the rules that concern an exchange."""
        mask = self._selector.mask(x)
        steps = []
        for place, rule in enumerate(self.rules):
            if mask >> place & 1:
                applied = self._transforms[x.dialect].apply(body, 1 << place, self._sources.values(x))
                has_held = applied is not None and bool(applied[1])
                body = body if applied is None else applied[0]
                steps.append(Edited(rule.name, body, has_held))
        return steps

    def concerns_none(self, x: Exchange) -> bool:
        """Return whether no rule can concern a request with the same principal and model."""
        return self._selector.concerns_none(x)

    def _refuse(self, mask: int) -> None:
        mask &= self._strict
        if mask:
            name = next(rule.name for place, rule in enumerate(self.rules) if mask >> place & 1)
            raise NotTransformable(f"the rule '{name}' needs a body that is a JSON object without content-encoding")

    def _compiled(self, style: str) -> Transform:
        return Transform([self._words(rule, style) for rule in self.rules], True)

    def _words(self, rule: TransformRule, style: str) -> Words:
        operations = operations_of(rule.request, self._sources)
        if rule.system is not None and style:
            operations.append(("system", style, rule.system.mode, rule.system.text))
        return conditions_of(rule.when), operations


def conditions_of(conditions: Sequence[Condition]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return conditions in the words of native.Transform."""
    return [(one.kind, one.path, one.values) for one in conditions]


def operations_of(edits: Sequence[Edit], sources: Sources) -> list[tuple[str, str, str | None, str | None]]:
    """Return edits in the words of native.Transform."""
    return [
        (
            edit.kind,
            edit.path,
            str(sources.names.index(edit.word or "")) if edit.kind == "set_from" else edit.word,
            edit.other,
        )
        for edit in edits
    ]


def holds(rule: TransformRule, x: Exchange) -> bool:
    """Return whether a rule's condition held for the request's body, which has been edited by now."""
    return not rule.when or rule.name in (x.transforms or ())


def note(x: Exchange, names: Sequence[str]) -> None:
    """Add rules to those that were applied to an exchange, for the access log."""
    known = x.transforms or ()
    x.transforms = (*known, *(name for name in names if name not in known))


def _value(x: Exchange, name: str) -> str | None:
    principal = x.principal
    if name == "principal":
        value = None if principal is None or principal.anonymous else principal.id
    elif name == "tenant":
        value = None if principal is None else principal.tenant
    elif name == "model":
        value = x.model
    elif name == "route":
        value = x.route.name
    elif name == "request_id":
        value = x.request_id
    else:
        value = x.head.header(name.removeprefix("header:"))
    return value or None
