"""Peek and splice against json.loads: the same members, the same edits, every other byte untouched."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgateway._native import Peeker
from budgateway.errors import BadRequest

FIELDS = ("model", "stream", "user", "max_tokens", "max_completion_tokens", "max_output_tokens", "stream_options")
MAX_COUNT = 2**63 - 1

keys = st.sampled_from([*FIELDS, "messages", "x", "mod", "models", "", "ключ"]) | st.text(max_size=6)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=80)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
spaces = st.text(" \t\r\n", max_size=3)


@st.composite
def texts(draw: st.DrawFn, value: Any) -> str:
    """One of the many ways to write a value down: spaces, escapes."""

    def string(text: str) -> str:
        written = json.dumps(text, ensure_ascii=draw(st.booleans()))
        if text and draw(st.booleans()):
            at = draw(st.integers(0, len(text) - 1))
            if ord(text[at]) < 0x10000:
                written = json.dumps(text[:at])[:-1] + f"\\u{ord(text[at]):04X}" + json.dumps(text[at + 1 :])[1:]
        return written

    def write(value: Any) -> str:
        pad = lambda: draw(spaces)  # noqa: E731
        if isinstance(value, dict):
            inner = ",".join(f"{pad()}{string(k)}{pad()}:{write(v)}" for k, v in value.items())
            return f"{pad()}{{{inner or pad()}}}{pad()}"
        if isinstance(value, list):
            return f"{pad()}[{','.join(map(write, value)) or pad()}]{pad()}"
        return pad() + (string(value) if isinstance(value, str) else json.dumps(value)) + pad()

    return write(value)


def is_refused(value: object) -> bool:
    """Return whether readers may differ about a document: a model with control characters, a name in another case."""
    if not isinstance(value, dict):
        return False
    model = value.get("model")
    if isinstance(model, str) and any(unicodedata.category(letter) == "Cc" for letter in model):
        return True
    return any(name not in FIELDS and name.casefold() in FIELDS for name in value)


objects = st.dictionaries(keys, values, max_size=8).filter(lambda value: not is_refused(value))


@given(st.data(), values.filter(lambda value: not is_refused(value)) | objects)
def test_peek_finds_what_loads_finds(data: st.DataObject, value: Any) -> None:
    body = data.draw(texts(value)).encode()
    peek = Peeker().peek(body)
    members = value if isinstance(value, dict) else {}
    for field in FIELDS:
        span = peek.span(field)
        assert (span is not None) == (field in members)
        if span:
            assert json.loads(body[slice(*span)]) == members[field]
    assert peek.model == (members.get("model") if isinstance(members.get("model"), str) else None)
    assert peek.user == (members.get("user") if isinstance(members.get("user"), str) else None)
    assert peek.stream is (members.get("stream") is True)
    counts = [members.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    counts = [min(n, MAX_COUNT) for n in counts if type(n) is int and n >= 0]
    assert peek.max_tokens == (counts[0] if counts else None)


@given(st.data(), objects)
def test_rewrite_is_the_edited_dict(data: st.DataObject, value: dict[str, Any]) -> None:
    body = data.draw(texts(value)).encode()
    edits = data.draw(
        st.lists(st.tuples(st.sampled_from(FIELDS), st.none() | values.map(lambda v: json.dumps(v).encode())))
    )
    edited = dict(value)
    for field, text in edits:
        if text is None:
            edited.pop(field, None)
        else:
            edited[field] = json.loads(text)
    peek = Peeker().peek(body)
    # Of two edits of a field the later counts; a deletion before an insertion moves nothing that can be seen.
    rewritten = peek.rewrite(edits)
    assert json.loads(rewritten) == edited
    if not is_refused(edited):
        Peeker().peek(rewritten)


@given(st.data(), objects)
def test_rewrite_leaves_other_bytes_alone(data: st.DataObject, value: dict[str, Any]) -> None:
    body = data.draw(texts(value)).encode()
    peek = Peeker().peek(body)
    assert peek.rewrite([]) == body
    span = peek.span("model")
    if span:
        assert peek.rewrite([("model", b'"m"')]) == body[: span[0]] + b'"m"' + body[span[1] :]
    for field in FIELDS:
        if (span := peek.span(field)) is not None:
            assert peek.rewrite([(field, body[slice(*span)])]) == body


switches = st.none() | st.booleans() | st.sampled_from([0, 1, "true", "false", [], {}])
options = (
    st.fixed_dictionaries(
        {}, optional={"include_usage": switches, "x": values, "continuous_usage_stats": st.booleans()}
    )
    | values
)


def asking(options: Any) -> Any:
    """Return the `stream_options` that request usage; None when they need no change."""
    if options is None:
        return {"include_usage": True}
    if not isinstance(options, dict) or "include_usage" not in options:
        return None
    switch = options["include_usage"]
    return options | {"include_usage": True} if switch is None or switch is False else None


@given(st.data(), objects, options)
def test_a_stream_is_asked_for_its_usage(data: st.DataObject, value: dict[str, Any], options: Any) -> None:
    present = data.draw(st.booleans())
    value = {key: member for key, member in value.items() if key != "stream_options"}
    value |= {"stream_options": options} if present else {}
    body = data.draw(texts(value)).encode()
    peek = Peeker().peek(body)
    expected = asking(options if present else None)
    text = peek.asking_options
    assert (None if text is None else json.loads(text)) == expected
    if text is None:
        return
    rewritten = peek.rewrite([("stream_options", text), ("model", b'"m"')])
    assert json.loads(rewritten) == value | {"stream_options": expected, "model": "m"}
    rewritten = peek.rewrite([("stream_options", text)])
    span = peek.span("stream_options")
    if span is None:
        brace = body.index(b"{") + 1
        comma = b"," if value else b""
        assert rewritten == body[:brace] + b'"stream_options":' + text + comma + body[brace:]
        return
    before, after = body[: span[0]], body[span[1] :]
    assert (rewritten[: len(before)], rewritten[len(rewritten) - len(after) :]) == (before, after)
    if (switch := Peeker(["include_usage"]).peek(body[slice(*span)]).span("include_usage")) is not None:
        start, end = span[0] + switch[0], span[0] + switch[1]
        assert rewritten == body[:start] + b"true" + body[end:]
    # Asked once, it is not asked again.
    assert Peeker().peek(rewritten).asking_options is None


def test_options_that_say_it_twice_are_left_alone() -> None:
    body = b'{"stream_options":{"include_usage":false,"include_usage":false}}'
    assert Peeker().peek(body).asking_options is None
    assert Peeker().peek(b"[]").asking_options is None
    assert Peeker(["model"]).peek(b"{}").asking_options is None


@given(st.data(), objects, st.sampled_from(FIELDS), values)
def test_a_wanted_member_twice_is_refused(data: st.DataObject, value: dict[str, Any], field: str, again: Any) -> None:
    first = json.dumps({**value, field: again})
    second = data.draw(texts({field: again})).strip()
    with pytest.raises(BadRequest, match=f"'{field}' twice"):
        Peeker().peek((first[:-1] + "," + second[1:]).encode())


@given(st.data(), values, st.integers(0, 200), st.binary(max_size=2))
@settings(max_examples=300)
def test_mutations_get_the_verdict_of_loads(data: st.DataObject, value: Any, at: int, junk: bytes) -> None:
    body = data.draw(texts(value)).encode()
    at = min(at, len(body))
    body = body[:at] + junk + body[at + len(junk) :]
    try:
        text = body.decode()
        pairs = json.loads(
            text, object_pairs_hook=list, parse_constant=lambda word: (_ for _ in ()).throw(ValueError(word))
        )
    except ValueError:
        with pytest.raises(BadRequest):
            Peeker().peek(body)
        return
    names = [pair[0] for pair in pairs if isinstance(pair, tuple)] if text.strip()[:1] == "{" else []
    if any(names.count(field) > 1 for field in FIELDS):
        with pytest.raises(BadRequest, match="twice"):
            Peeker().peek(body)
    else:
        Peeker().peek(body)


def test_a_field_that_is_not_wanted_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="'x' is not a wanted field"):
        Peeker().peek(b"{}").rewrite([("x", b"1")])
    with pytest.raises(ValueError, match="not a JSON object"):
        Peeker().peek(b"[]").rewrite([("model", b"1")])


def test_field_lists_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="listed twice"):
        Peeker(["a", "a"])
    with pytest.raises(ValueError, match="at most 16"):
        Peeker([str(n) for n in range(17)])
