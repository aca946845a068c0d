"""The transforms of a route, and of each provider behind it, compiled from the rules."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from budgateway.errors import BadRequest
from budgateway.exchange.cached_plan import NOTHING, Part
from budgateway.kinds import KINDS
from budgateway.native import HeadEdits, Peeker
from budgateway.transform.answers import AnswerEdits, AnswerRules
from budgateway.transform.bodies import BodyRules, Edited, holds, note
from budgateway.transform.paths import Paths
from budgateway.transform.selector import Selector
from budgateway.wire.dialects import DIALECTS, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from budgateway.exchange.exchange_cy import Exchange
    from budgateway.records import Provider, Route, TransformRule


class RouteTransforms:
    """The rules for what clients send on one route. They apply before limits, so that a cap is what is reserved."""

    def __init__(self, rules: Sequence[TransformRule]) -> None:
        self._bodies = BodyRules(rules, DIALECTS, NAMES)
        self._peek = Peeker().peek

    def request(self, x: Exchange) -> None:
        """Edit the client's body. Raises BadRequest."""
        before = x.body
        body = self._bodies.edit(x, before, x.peek is not None and x.body_done)
        if body is not None and body is not before:
            x.body = body
            x.peek = self._peek(body)

    def explain(self, x: Exchange, body: bytes) -> list[Edited]:
        """Return the body after each of the rules that concern an exchange."""
        return self._bodies.explain(x, body)

    def cached_plan(self, x: Exchange) -> Part | None:
        """Return the part of a cached plan: NOTHING for roles and a model that no rule concerns."""
        return NOTHING if self._bodies.concerns_none(x) else None


class ProviderTransforms:
    """The rules for what the upstreams of one provider are sent by a route, and for their answers. They apply to each
    attempt: a fallback has rules of its own."""

    def __init__(
        self,
        bodies: Sequence[TransformRule],
        heads: Sequence[TransformRule],
        answers: Sequence[TransformRule],
        spoken: Sequence[str],
        describing: Sequence[str],
        paths: Paths | None = None,
        name_of: Callable[[str], str] = str,
    ) -> None:
        """`spoken`: the provider's dialects, by the client's. `paths`: those that its kind has elsewhere, with the names
        that `name_of` gives models."""
        self._paths = paths
        self._name_of = name_of
        self._bodies = BodyRules(bodies, DIALECTS, spoken)
        self._conditional = frozenset(rule.name for rule in self._bodies.rules if rule.when)
        self._head_rules = tuple(rule for rule in heads if rule.headers)
        self._head_selector = Selector(self._head_rules, DIALECTS)
        self._answers = AnswerRules(answers, DIALECTS, describing)
        self.has_answers = bool(self._answers.rules)

    def request(self, x: Exchange) -> None:
        """Edit what the adapter has made of the request: `x.send_body` and `x.head_edits`. Raises BadRequest."""
        if self._bodies.rules:
            if x.transforms is not None and self._conditional:  # of an earlier destination
                x.transforms = tuple(name for name in x.transforms if name not in self._conditional)
            x.send_body = self._bodies.edit(x, x.send_body, x.peek is not None and x.body_done)
        if self._paths is not None:
            self._move(x, self._paths)
        if self._head_rules:
            self._edit_head(x)

    def answer(self, x: Exchange) -> AnswerEdits | None:
        """Return the edits of a good answer; None without any."""
        return self._answers.of(x) if self.has_answers else None

    def explain(self, x: Exchange, body: bytes) -> list[Edited]:
        """Return the body after each of the rules that concern an exchange."""
        return self._bodies.explain(x, body)

    def answer_names(self, x: Exchange) -> list[str]:
        """Return the names of the rules that would edit an exchange's answer."""
        return self._answers.names(x)

    def headers(self, x: Exchange) -> tuple[dict[str, str], set[str]]:
        """Return the headers to set, and those to remove."""
        lines: dict[str, str] = {}
        removed: set[str] = set()
        mask = self._head_selector.mask(x)
        for place, rule in enumerate(self._head_rules):
            if mask >> place & 1 and holds(rule, x):
                for name in rule.headers.remove:
                    lines.pop(name, None)
                    removed.add(name)
                lines.update((name, value.reveal()) for name, value in rule.headers.set)
        return lines, removed

    def cached_plan(self, x: Exchange) -> Part | None:
        """Return the part of a cached plan: NOTHING for roles and a model that no rule concerns."""
        if self._paths is not None:
            return None
        parts = (self._bodies, self._head_selector, self._answers)
        return NOTHING if all(part.concerns_none(x) for part in parts) else None

    def _move(self, x: Exchange, paths: Paths) -> None:
        edits = x.head_edits
        if edits is None or edits.target is None:
            path, query = x.head.path, x.head.query
        else:
            path, _, query = edits.target.partition("?")
        target = paths.target(path, query, self._name_of(x.model) if x.model else "")
        if target is None:
            return
        try:
            x.head_edits = HeadEdits(target) if edits is None else edits.at(target)
        except ValueError:
            raise BadRequest("the upstream's path names the model, and this name fits no path", param="model") from None

    def _edit_head(self, x: Exchange) -> None:
        lines, removed = self.headers(x)
        if not lines and not removed:
            return
        mask = self._head_selector.mask(x)
        note(x, [rule.name for place, rule in enumerate(self._head_rules) if mask >> place & 1 and holds(rule, x)])
        if x.head_edits is None:
            x.head_edits = HeadEdits(None, list(lines.items()), list(removed))
        else:
            x.head_edits = x.head_edits.with_lines(list(lines.items()), list(removed))


def of_route(rules: Iterable[TransformRule], route: Route) -> RouteTransforms | None:
    """Return the transforms of what clients send on a route; None without any."""
    own = [rule for rule in _for(rules, route) if not rule.providers and _needs_body(rule)]
    return RouteTransforms(own) if own else None


def of_provider(
    rules: Iterable[TransformRule],
    route: Route,
    provider: Provider,
    spoken: Sequence[str],
    describing: Sequence[str] = (),
    *,
    name_of: Callable[[str], str] | None = None,
) -> ProviderTransforms | None:
    """Return the transforms of what a provider's upstreams are sent by a route, and of their answers; None without any.
    `spoken`: the provider's dialects, by the client's; `describing`: the headers that a translated answer loses;
    `name_of` returns the upstream's name of a model."""
    all_rules = [rule for rule in _for(rules, route) if not rule.providers or _is_named(provider.name, rule.providers)]
    moves = KINDS[provider.kind].moves
    bodies = [rule for rule in all_rules if rule.providers and _needs_body(rule)]
    heads = [rule for rule in all_rules if rule.headers]
    answers = [rule for rule in all_rules if rule.response or rule.response_headers]
    if not (bodies or heads or answers or moves):
        return None
    paths = Paths(moves, provider.api_version) if moves else None
    return ProviderTransforms(bodies, heads, answers, spoken, describing, paths, name_of or provider.upstream_model)


def _for(rules: Iterable[TransformRule], route: Route) -> list[TransformRule]:
    """Return the rules that may concern a route's requests."""
    methods = set(route.methods)
    return [
        rule
        for rule in rules
        if (not rule.routes or _is_named(route.name, rule.routes))
        and not (methods and rule.methods and not methods & set(rule.methods))
    ]


def _needs_body(rule: TransformRule) -> bool:
    """Return whether a rule looks at the request's body, be it only for its condition."""
    return bool(rule.request or rule.system is not None or rule.when)


def _is_named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
