"""Transformation rules, native against the oracle on dictionaries: members, their order, and the bytes of what stays."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from oracles import transforms as oracle

from budgateway.native import EventTransform, Transform

NAMES = ["a", "b", "c", "max_tokens", "x/y", "é", "0", "1"]
SCALARS = st.none() | st.booleans() | st.integers(-20, 20) | st.floats(-1e9, 1e9).map(float) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5),
    max_leaves=16,
)  # fmt: skip
DOCUMENTS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), VALUES, max_size=8)
STEPS = st.sampled_from([*NAMES, "-", "2"])


def pointer(steps: list[str]) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


PATHS = st.sampled_from(["a", "b", "c", "max_tokens"]) | st.lists(STEPS, min_size=1, max_size=3).map(pointer)
NUMBERS = st.integers(-20, 20)
OPERATIONS = st.one_of(
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("rename"), PATHS, st.sampled_from(NAMES)),
    st.tuples(st.just("default"), PATHS, VALUES),
    st.tuples(st.just("set"), PATHS, VALUES),
    st.tuples(st.just("set_from"), PATHS, st.integers(0, 1)),
    st.tuples(st.just("cap"), PATHS, NUMBERS, st.none() | NUMBERS),
)
CONDITIONS = st.one_of(
    st.tuples(st.sampled_from(["present", "absent"]), PATHS, st.just([])),
    st.tuples(st.just("in"), PATHS, st.lists(st.booleans() | NUMBERS | st.text(max_size=4), min_size=1, max_size=3)),
    st.tuples(st.sampled_from(["above", "below"]), PATHS, NUMBERS.map(lambda number: [number])),
)
RULES = st.lists(
    st.tuples(st.lists(CONDITIONS, max_size=2), st.lists(OPERATIONS, min_size=1, max_size=5)), min_size=1, max_size=4
)
TEXTS = ['me\n"x"', None]


def text(value: Any) -> str:
    return json.dumps(value)


def compiled(rules: Any, exacting: bool = True) -> Transform:
    """The rules in the words of the native code."""
    return Transform(
        [
            (
                [(kind, path, [text(value) for value in values]) for kind, path, values in conditions],
                [_words(operation) for operation in operations],
            )
            for conditions, operations in rules
        ],
        exacting,
    )


def _words(operation: Any) -> tuple[str, str, str | None, str | None]:
    kind, path, *words = operation
    if kind == "rename":
        return kind, path, words[0], None
    if kind == "set_from":
        return kind, path, str(words[0]), None
    word = text(words[0]) if words else None
    other = text(words[1]) if len(words) > 1 and words[1] is not None else None
    return kind, path, word, other


def expected(rules: Any, document: Any) -> tuple[Any, int]:
    """The oracle's result, and the mask of the rules that held."""
    document, held = copy.deepcopy(document), 0
    for place, (conditions, operations) in enumerate(rules):
        if all(oracle.holds(document, *condition) for condition in conditions):
            held |= 1 << place
            for operation in operations:
                oracle.apply(document, copy.deepcopy(operation), TEXTS)
    return document, held


def ordered(document: Any) -> Any:
    """A document whose members have an order."""
    if isinstance(document, dict):
        return [(name, ordered(value)) for name, value in document.items()]
    return [ordered(value) for value in document] if isinstance(document, list) else document


SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", " :\t")])


@given(RULES, DOCUMENTS, SPACES, st.booleans())
def test_a_document_becomes_what_the_oracle_says(rules: Any, document: Any, spaces: Any, plain: bool) -> None:
    body = json.dumps(document, separators=spaces, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    body = json.dumps(document, separators=spaces).encode() if b"\xed" in body else body
    applied = compiled(rules).apply(body, (1 << 64) - 1, TEXTS)
    assert applied is not None
    wanted, held = expected(rules, document)
    assert ordered(json.loads(applied[0])) == ordered(wanted)
    assert applied[1] == held
    if ordered(wanted) == ordered(document) and not any(operations for _, operations in rules):
        assert applied[0] is body


@given(RULES, DOCUMENTS)
def test_only_the_rules_of_the_mask_apply(rules: Any, document: Any) -> None:
    body = json.dumps(document).encode()
    transform = compiled(rules)
    applied = transform.apply(body, 0, TEXTS)
    assert applied is not None
    assert applied[0] is body
    assert applied[1] == 0
    whole = transform.apply(body, (1 << 64) - 1, TEXTS)
    for place in range(len(rules)):
        step = transform.apply(body, 1 << place, TEXTS)
        assert step is not None
        body = step[0]
    assert whole is not None
    assert whole[0] == body, "one rule after the other makes the same bytes as all at once"


@given(DOCUMENTS, st.sampled_from(NAMES))
def test_what_is_not_named_keeps_its_bytes(document: Any, name: str) -> None:
    document = {**document, name: [{"deep": 1.50}]}
    others = {key: value for key, value in document.items() if key != name}
    parts = {key: f" {json.dumps(key)} :  {json.dumps(value, indent=1)} " for key, value in document.items()}
    body = "{" + ",".join(parts.values()) + "}"
    edited = compiled([([], [("remove", pointer([name]))])]).apply(body.encode(), 1)
    assert edited is not None
    assert edited[0].decode() == "{" + ",".join(parts[key] for key in others) + "}"


@given(RULES, st.lists(DOCUMENTS, max_size=4), st.integers(1, 40))
def test_a_stream_is_edited_event_by_event(rules: Any, documents: Any, size: int) -> None:
    events = [json.dumps(document).encode() for document in documents]
    stream = b"".join(b"event: e\r\ndata: %b\r\n\r\n" % event for event in events) + b": c\n\ndata: [DONE]\n\n"
    transform = compiled(rules, exacting=False)
    mask = (1 << len(rules)) - 1
    pump = EventTransform(transform, mask, TEXTS)
    out = b"".join(pump.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + pump.finish()
    edited = [transform.edit(event, mask, TEXTS) for event in events]
    assert out == b"".join(b"event: e\r\ndata: %b\r\n\r\n" % event for event in edited) + b": c\n\ndata: [DONE]\n\n"
    for document, event in zip(documents, edited, strict=True):
        assert ordered(json.loads(event)) == ordered(expected(rules, document)[0])


@given(RULES, st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_anything_else_passes(rules: Any, data: bytes) -> None:
    try:
        document = json.loads(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        assert compiled(rules, exacting=False).edit(data, (1 << 64) - 1, TEXTS) == data
