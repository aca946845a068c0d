"""Configuration of transformation rules: `[[transforms]]`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from budgateway.config.types import DialectName, HeaderName, Methods, Table, Text, Texts, one_or_many

# A value of the exchange; a header of the request is `header:NAME`.
SOURCE = r"^(principal|tenant|model|route|request_id|header:[A-Za-z0-9!#$%&'*+.^_`|~-]+)$"


def json_value(value: object) -> object:
    """Check that a value has a JSON form: TOML's dates and its `nan` have none."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("has no form in JSON: dates are written as strings, and there is no nan or inf") from None
    return value


def number(value: object) -> object:
    """Check for a finite number that is no boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic catches this one
    return json_value(value)


def cap_table(value: object) -> object:
    """Turn a bare number into a table."""
    return value if isinstance(value, dict) else {"max": value}


def one_condition(value: object) -> object:
    """Turn a single condition into a list of one."""
    return [value] if isinstance(value, dict) else value


def scalar(value: object) -> object:
    """Check a value to compare with."""
    if not isinstance(value, str | int | float):
        raise ValueError("must be a string, a number or a boolean")  # noqa: TRY004 - the same
    return json_value(value)


Value = Annotated[Any, BeforeValidator(json_value)]
Number = Annotated[float, BeforeValidator(number, json_schema_input_type=float)]
Scalar = Annotated[Any, BeforeValidator(scalar, json_schema_input_type=str | float | bool)]
MemberPath = Annotated[str, Field(min_length=1)]
SourceName = Annotated[str, Field(pattern=SOURCE)]


class CapConfig(Table):
    """The largest value of a number."""

    max: Number
    """Numbers above it become it."""
    default: Number | None = None
    """Value where there is none; without it, none is set."""


class ConditionConfig(Table):
    """A condition on the body."""

    field: MemberPath
    """Name of a top-level member, or a JSON pointer."""
    is_: Literal["present", "absent"] | None = Field(default=None, alias="is")
    """Require the member, or its absence; null counts as absent."""
    equals: Scalar = None
    """Value that the member must have."""
    in_: list[Scalar] | None = Field(default=None, alias="in", min_length=1)
    """Values of which the member must have one."""
    above: Number | None = None
    """The member must be a larger number."""
    below: Number | None = None
    """The member must be a smaller number."""


class BodyConfig(Table):
    """Edits of a body. A key is the name of a top-level member, or a JSON pointer such as "/metadata/team"."""

    remove: list[MemberPath] = []
    """Members to remove."""
    rename: dict[MemberPath, MemberPath] = {}
    """Old name = new name. A member that has the new name already stays, and the old one is removed."""
    default: dict[MemberPath, Value] = {}
    """Values for members that are absent or null."""
    set: dict[MemberPath, Value] = {}
    """Values to set."""
    set_from: dict[MemberPath, SourceName] = {}
    """Members to set from `principal`, `tenant`, `model`, `route`, `request_id` or `header:NAME`."""
    cap: dict[
        MemberPath, Annotated[CapConfig, BeforeValidator(cap_table, json_schema_input_type=float | CapConfig)]
    ] = {}
    """Largest values of numbers: a number, or a table with `max` and `default`."""


class SystemConfig(Table):
    """A text for the system part of a request; one of the three. `file:PATH` reads it from a file."""

    prepend: str | None = None
    """Text before the request's own."""
    append: str | None = None
    """Text behind the request's own."""
    replace: str | None = None
    """Text instead of the request's own."""


class HeadersConfig(Table):
    """Edits of headers."""

    set: dict[HeaderName, str] = {}
    """Headers to set: literal values, or references to secrets."""
    remove: list[HeaderName] = []
    """Headers to remove."""


class TransformConfig(Table):
    """One transformation rule: the requests it applies to, and its edits of requests and answers."""

    name: Text
    """Name in the access log and in `routes match --explain`."""
    routes: Texts = []
    """Names of routes, or globs; default: all."""
    providers: Texts = []
    """Names of providers, or globs. The rule then applies to what their upstreams are sent, for each attempt."""
    models: Texts = []
    """Models as clients name them, or globs; default: all."""
    tenants: Texts = []
    """Tenants, or globs; default: all."""
    roles: Texts = []
    """Roles of which a principal must have one; default: all."""
    dialects: Annotated[
        list[DialectName], BeforeValidator(one_or_many, json_schema_input_type=DialectName | list[DialectName])
    ] = []
    """Dialects of clients; default: all."""
    methods: Methods = []
    """Methods; default: all."""
    when: Annotated[
        list[ConditionConfig],
        BeforeValidator(one_condition, json_schema_input_type=ConditionConfig | list[ConditionConfig]),
    ] = []
    """Conditions on the request's body, which must all hold for its edits: one, or a list."""
    request: BodyConfig = BodyConfig()
    """Edits of the request's body."""
    system: SystemConfig | None = None
    """A system text, in the place that the dialect has for it."""
    headers: HeadersConfig = HeadersConfig()
    """Edits of the headers that upstreams are sent."""
    response: BodyConfig = BodyConfig()
    """Edits of answers: JSON documents, and each event of a stream."""
    response_headers: HeadersConfig = HeadersConfig()
    """Edits of the headers that clients are sent."""
    strict: bool = False
    """Refuse requests whose body cannot be edited, because it is no JSON object, instead of letting them pass."""


def dropped(value: object) -> object:
    """Check `drop_params`: names, or "unsupported"."""
    if isinstance(value, str) and value != "unsupported":
        raise ValueError('must be a list of names, or "unsupported"')
    return value


DropParams = Annotated[
    Literal["unsupported"] | list[MemberPath],
    BeforeValidator(dropped, json_schema_input_type=Literal["unsupported"] | list[MemberPath]),
]
