"""Conversion of transformation rules to records: paths, headers and files checked, and rules against each other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from budgateway import native
from budgateway.config.problems import did_you_mean, shown
from budgateway.config.types import FIELD_VALUE, OWN_HEADERS, SECRET_HEADERS, secret_reference
from budgateway.kinds import KINDS
from budgateway.records import Condition, Edit, HeaderRule, Provider, Route, Secret, SystemText, TransformRule

if TYPE_CHECKING:
    from budgateway.config.resolve import Resolver
    from budgateway.config.schema import ProviderConfig
    from budgateway.config.schema_transforms import (
        BodyConfig,
        ConditionConfig,
        HeadersConfig,
        SystemConfig,
        TransformConfig,
    )
    from budgateway.config.source import KeyPath

MAX_RULES = 64  # of one route: native.Transform selects them by the bits of a mask
# Aliases and the gateway own them.
OWNED = (("model",), ("stream",), ("stream_options",))
WHY_OWNED = {
    "model": "aliases choose the model's name",
    "stream": "the client chooses it",
    "stream_options": "the gateway needs include_usage; `stream_usage = false` of the provider leaves it to clients",
}
# Headers of answers that the gateway writes itself, or never passes on.
OWN_ANSWER_HEADERS = OWN_HEADERS | {"x-request-id", "set-cookie", "date", "content-encoding", "content-type"}
SYSTEM_DIALECTS = ("openai.chat", "openai.responses", "anthropic.messages", "anthropic.count", "gemini.generate")


class TransformResolver:
    """Checks rules and builds their records. Notes every problem, and continues."""

    def __init__(self, resolve: Resolver, routes: Sequence[Route], providers: Sequence[str]) -> None:
        self._resolve = resolve
        self._problems = resolve.problems
        self._routes = routes
        self._providers = providers
        self.notices: list[str] = []

    def rules(self, tables: Mapping[int, TransformConfig]) -> tuple[TransformRule, ...]:
        """Return the records of the rules, in their order."""
        names: dict[str, int] = {}
        found = []
        for index, table in tables.items():
            here: KeyPath = ("transforms", index)
            if (first := names.setdefault(table.name, index)) != index:
                self._problems.add((*here, "name"), f"{shown(table.name)} is the name of transforms[{first}] already")
            found.append(self._rule(here, table))
        self._note_repeated(found)
        return tuple(found)

    def _rule(self, here: KeyPath, table: TransformConfig) -> TransformRule:
        self._check_names((*here, "routes"), table.routes, [route.name for route in self._routes], "route")
        self._check_names((*here, "providers"), table.providers, self._providers, "provider")
        rule = TransformRule(
            name=table.name,
            routes=tuple(table.routes),
            providers=tuple(table.providers),
            models=tuple(table.models),
            tenants=tuple(table.tenants),
            roles=tuple(table.roles),
            dialects=tuple(table.dialects),
            methods=() if "*" in table.methods else tuple(table.methods),
            when=tuple(self._conditions(here, table.when)),
            request=tuple(self._edits((*here, "request"), table.request, is_request=True)),
            system=None if table.system is None else self._system((*here, "system"), table.system),
            headers=self._headers((*here, "headers"), table.headers, OWN_HEADERS | SECRET_HEADERS, "x-budgateway-"),
            response=tuple(self._edits((*here, "response"), table.response, is_request=False)),
            response_headers=self._headers(
                (*here, "response_headers"), table.response_headers, OWN_ANSWER_HEADERS, "x-budgateway-", "rate-limit-"
            ),
            strict=table.strict,
        )
        if not (rule.request or table.system or rule.headers or rule.response or rule.response_headers):
            if not self._problems.within(here):
                parts = "request, system, headers, response, response_headers"
                self._problems.add(here, f"changes nothing: give it one of {parts}")
        elif table.strict and not (rule.request or table.system):
            self._problems.add((*here, "strict"), "has no effect without edits of the request's body")
        if rule.system is not None and rule.dialects and not set(rule.dialects) & set(SYSTEM_DIALECTS):
            self.notices.append(f"system of transform {shown(rule.name)} has no effect: its dialects have no such part")
        return rule

    def _check_names(self, path: KeyPath, patterns: Iterable[str], known: Sequence[str], what: str) -> None:
        for index, pattern in enumerate(patterns):
            if not any(fnmatchcase(name, pattern) for name in known):
                suggestion = did_you_mean(pattern, known)
                self._problems.add((*path, index), f"no {what} is called {shown(pattern)}{suggestion}")

    def _conditions(self, here: KeyPath, tables: Sequence[ConditionConfig]) -> Iterator[Condition]:
        for index, table in enumerate(tables):
            path: KeyPath = (*here, "when", index)
            tests = table.model_fields_set - {"field"}
            if len(tests) != 1:
                self._problems.add(path, "needs exactly one of is, equals, in, above, below")
            elif self._steps((*path, "field"), table.field):
                yield _condition(table)

    def _edits(self, here: KeyPath, table: BodyConfig, *, is_request: bool) -> Iterator[Edit]:
        """Yield the edits of a body, in the order in which they apply."""

        def usable(key: str, path: str) -> bool:
            place: KeyPath = (*here, key, table.remove.index(path) if key == "remove" else path)
            steps = self._steps(place, path)
            if is_request and steps and self._is_owned(place, steps):
                return False
            return bool(steps)

        yield from (Edit("remove", path) for path in table.remove if usable("remove", path))
        for path, new in table.rename.items():
            if usable("rename", path):
                yield from self._renaming((*here, "rename", path), path, new, is_request=is_request)
        values: tuple[tuple[Literal["default", "set"], dict[str, Any]], ...] = (
            ("default", table.default),
            ("set", table.set),
        )
        for kind, given in values:
            yield from (Edit(kind, path, _json(value)) for path, value in given.items() if usable(kind, path))
        yield from (
            Edit("set_from", path, source) for path, source in table.set_from.items() if usable("set_from", path)
        )
        for path, cap in table.cap.items():
            if usable("cap", path):
                yield Edit("cap", path, _json(cap.max), None if cap.default is None else _json(cap.default))

    def _renaming(self, place: KeyPath, path: str, new: str, *, is_request: bool) -> Iterator[Edit]:
        before, after = self._steps(place, path), self._steps(place, new)
        if not before or not after:
            return
        if before[:-1] != after[:-1]:
            where = f"/{'/'.join(before[:-1])}/NAME" if len(before) > 1 else "a name without slashes"
            self._problems.add(place, f"a member is renamed within its object: write {where}")
        elif not is_request or not self._is_owned(place, after):
            yield Edit("rename", path, after[-1])

    def _steps(self, place: KeyPath, path: str) -> list[str]:
        """Return the names on a path; empty when it is invalid, which is noted."""
        try:
            native.Transform([([], [("remove", path, None, None)])], True)
        except ValueError as error:
            self._problems.add(place, str(error))
            return []
        if not path.startswith("/"):
            return [path]
        return [token.replace("~1", "/").replace("~0", "~") for token in path[1:].split("/")]

    def _is_owned(self, place: KeyPath, steps: list[str]) -> bool:
        """Return whether an edit would touch what the gateway owns, and note it."""
        owned = tuple(steps) in OWNED or steps == ["stream_options", "include_usage"]
        if owned:
            self._problems.add(place, f"{'.'.join(steps)} cannot be edited: {WHY_OWNED[steps[0]]}")
        return owned

    def _system(self, here: KeyPath, table: SystemConfig) -> SystemText | None:
        given = [
            (mode, text) for mode in ("prepend", "append", "replace") if (text := getattr(table, mode)) is not None
        ]
        if len(given) != 1:
            self._problems.add(here, "needs exactly one of prepend, append, replace")
            return None
        mode, text = given[0]
        if text.startswith("file:"):
            content = self._resolve.secret((*here, mode), text)
            text = "" if content is None else content.reveal()
        elif not text:
            self._problems.add((*here, mode), "is empty")
        return SystemText(mode, text)  # type: ignore[arg-type]  # one of the three

    def _headers(self, here: KeyPath, table: HeadersConfig, own: Iterable[str], *prefixes: str) -> HeaderRule:
        def usable(path: KeyPath, name: str) -> bool:
            is_own = name in own or name.startswith(prefixes) or "forwarded" in name or name == "x-request-id"
            if is_own:
                self._problems.add(
                    path, f"{shown(name)} cannot be edited: the gateway writes it, or never passes it on"
                )
            return not is_own

        for index, name in enumerate(table.remove):
            usable((*here, "remove", index), name)
        values = []
        for name, text in table.set.items():
            path: KeyPath = (*here, "set", name)
            if usable(path, name) and (value := self._value(path, text)) is not None:
                values.append((name, value))
        return HeaderRule(tuple(values), tuple(table.remove))

    def _value(self, path: KeyPath, text: str) -> Secret | None:
        value: Secret | None = Secret(text)
        if text.startswith(("env:", "file:")):
            try:
                secret_reference(text)
            except ValueError as error:
                self._problems.add(path, str(error))
                return None
            value = self._resolve.secret(path, text)
        if value is not None and not FIELD_VALUE.fullmatch(value.reveal()):
            self._problems.add(path, "holds characters that no header can carry")
        return value

    def _note_repeated(self, rules: Sequence[TransformRule]) -> None:
        """Note paths that two rules set for the same requests: the last one counts."""
        seen: dict[tuple[str, str, tuple[str, ...], tuple[str, ...]], str] = {}
        for rule in rules:
            for part, edits in (("request", rule.request), ("response", rule.response)):
                for path in dict.fromkeys(edit.path for edit in edits if edit.kind in ("set", "set_from")):
                    key = (part, path, rule.routes, rule.providers)
                    if (first := seen.get(key)) is not None:
                        self.notices.append(
                            f"transforms {shown(first)} and {shown(rule.name)} both set {part}.{path}: the last one counts"
                        )
                    seen[key] = rule.name


def check_number(rules: Sequence[TransformRule], routes: Sequence[Route]) -> str:
    """Return a problem when more rules may apply to one route than a transform holds; empty for none."""
    for route in routes:
        count = sum(not rule.routes or any(fnmatchcase(route.name, name) for name in rule.routes) for rule in rules)
        if count > MAX_RULES:
            return f"{count} rules may apply to the route {shown(route.name)}, at most {MAX_RULES} can"
    return ""


def drop_rules(tables: Mapping[str, ProviderConfig], providers: Sequence[Provider]) -> tuple[TransformRule, ...]:
    """Return the rules that `drop_params` of providers stand for; they come before the operator's own."""
    rules = []
    for provider in providers:
        given = tables[provider.name].drop_params
        names: Sequence[str] = KINDS[provider.kind].refused if isinstance(given, str) else given
        if names:
            edits = tuple(Edit("remove", name) for name in names)
            rules.append(TransformRule(f"drop_params of {provider.name}", providers=(provider.name,), request=edits))
    return tuple(rules)


def _condition(table: ConditionConfig) -> Condition:
    if table.is_ is not None:
        return Condition(table.is_, table.field)
    if table.above is not None:
        return Condition("above", table.field, (_json(table.above),))
    if table.below is not None:
        return Condition("below", table.field, (_json(table.below),))
    values = [table.equals] if table.in_ is None else table.in_
    return Condition("in", table.field, tuple(_json(value) for value in values))


def _json(value: Any) -> str:
    """Return a value as JSON text; whole numbers without a fraction."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
