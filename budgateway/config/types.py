"""Field types shared by the configuration's tables, each with its check and its JSON Schema for editors."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from budgateway.config.endpoint import HOST_NAME, parse_endpoint
from budgateway.config.problems import shown
from budgateway.kinds import KINDS
from budgateway.native import POLICIES
from budgateway.records import METHODS
from budgateway.wire.dialects import DIALECTS

# Users copy these from a `curl` line, instead of the base URL in front of them.
CALLS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/messages", "/models")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# Other programs' names for log levels.
OTHER_LEVELS = {"TRACE": "DEBUG", "WARN": "WARNING", "FATAL": "CRITICAL"}
SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SIZE = r"^\s*\d{1,15}\s*[kKmMgGtT]?[iI]?[bB]?\s*$"
REFERENCE = r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"
# RFC 9110 5.6.2: the characters of a header's name.
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# RFC 9110 5.5, less obs-text: the characters of a header's value.
FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")
# Credentials; a literal value would be in a file that is committed, mailed and printed.
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"})
# The gateway writes these itself, from what it parsed.
OWN_HEADERS = frozenset(
    {"host", "connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect"}
)
if TYPE_CHECKING:
    KindName = str
    DialectName = str
    PolicyName = str
else:
    KindName = Literal[tuple(KINDS)]
    DialectName = Literal[tuple(dialect.name for dialect in DIALECTS if dialect.name and dialect.method)]
    PolicyName = Literal[tuple(POLICIES)]
NOT_A_REFERENCE = 'must be a reference to a secret, never the secret itself: write "env:NAME" or "file:PATH"'


def size_bytes(value: object) -> object:
    """Parse a size: an int, or a string such as "10MB"; units are powers of 1024, as in nginx."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d{1,15})\s*([kmgt]?)i?b?\s*", value, re.IGNORECASE | re.ASCII)
    if found is None:
        raise ValueError(f'must be a size such as 1048576, "10MB" or "1GB", got {shown(value)}')
    return int(found[1]) * SIZE_UNITS[found[2].lower()]


def one_or_many(value: object) -> object:
    """Turn a single string into a list of one."""
    return [value] if isinstance(value, str) else value


def method_name(value: str) -> str:
    """Return an HTTP method in capitals; `*` stands for all of them."""
    method = value.strip().upper()
    if method not in METHODS and method != "*":
        raise ValueError(f"no such method {shown(value)}: one of {', '.join(METHODS)}, or * for all")
    return method


def secret_reference(value: object) -> object:
    """Check a reference to a secret; never shows the value."""
    if not isinstance(value, str) or not re.fullmatch(REFERENCE, value):
        raise ValueError(NOT_A_REFERENCE)
    return value


def header_name(value: str) -> str:
    """Return a header's name in lower case."""
    if not TOKEN.fullmatch(value):
        raise ValueError(f"not a header's name: {shown(value)}")
    return value.lower()


def absolute_path(value: str) -> str:
    """Check an absolute path that a request target may have."""
    if not value.startswith("/"):
        raise ValueError(f"must begin with '/', got {shown(value)}")
    if re.search(r"[\x00-\x20\x7f?#]", value) or not value.isascii():
        raise ValueError("must be only a path: printable ASCII without spaces, '?' or '#'")
    return value


def path_prefix(value: str) -> str:
    """Return a path prefix without its trailing slash; empty for none."""
    return absolute_path(value).rstrip("/") if value else value


def listen_host(value: str) -> str:
    """Return an address or a host name to listen on."""
    try:
        return str(ipaddress.ip_address(value.strip("[]")))
    except ValueError:
        if not HOST_NAME.fullmatch(value):
            raise ValueError(f"must be an IP address or a host name without a port, got {shown(value)}") from None
    return value


def network(value: str) -> str:
    """Return an address or a CIDR block, as ipaddress spells it."""
    try:
        return str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        raise ValueError(f"must be an IP address or a block such as 10.0.0.0/8, got {shown(value)}") from None


def log_level(value: object) -> object:
    """Return a log level; any case, and other programs' names for it."""
    name = value.strip().upper() if isinstance(value, str) else ""
    return OTHER_LEVELS.get(name, name) if name in (*LEVELS, *OTHER_LEVELS) else value


def endpoint_tables(value: object) -> object:
    """Turn endpoints given as a URL into tables."""
    return [{"url": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


def endpoint_url(value: str) -> str:
    """Return a base URL in canonical spelling."""
    url = parse_endpoint(value).url
    for call in CALLS:
        if url.endswith(call):
            raise ValueError(f"is the URL of one call: write the base, {url.removesuffix(call)!r}")
    return url


def no_blank(value: str) -> str:
    """Check for printable, non-empty text on one line."""
    if not value.strip() or not value.isprintable():
        raise ValueError("must be printable text and not empty")
    return value


# JSON Schema patterns for values that a function parses.
SizeWords = Annotated[str, Field(pattern=SIZE)]
SecretWords = Annotated[str, Field(pattern=REFERENCE)]
MethodWord = Annotated[str, Field(pattern=f"^({'|'.join((*METHODS, *map(str.lower, METHODS)))}|\\*)$")]
LEVEL_NAMES = (*LEVELS, *OTHER_LEVELS)
LevelWord = Annotated[str, Field(pattern=f"^({'|'.join((*LEVEL_NAMES, *map(str.lower, LEVEL_NAMES)))})$")]

# A month: longer than any deadline, and nanoseconds stay within 64 bits.
Seconds = Annotated[float, Field(gt=0, le=2_592_000, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Port = Annotated[int, Field(ge=0, le=65535)]
Size = Annotated[int, Field(ge=1, le=1 << 50), BeforeValidator(size_bytes, json_schema_input_type=int | SizeWords)]
Text = Annotated[str, AfterValidator(no_blank)]
Texts = Annotated[list[Text], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])]
Methods = Annotated[
    list[Annotated[str, AfterValidator(method_name)]],
    BeforeValidator(one_or_many, json_schema_input_type=MethodWord | list[MethodWord]),
]
SecretRef = Annotated[str, BeforeValidator(secret_reference, json_schema_input_type=SecretWords)]
HeaderName = Annotated[str, AfterValidator(header_name)]
Path = Annotated[str, AfterValidator(absolute_path)]
Prefix = Annotated[str, AfterValidator(path_prefix)]
ListenHost = Annotated[str, AfterValidator(listen_host)]
Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(log_level, json_schema_input_type=LevelWord),
]


class Table(BaseModel):
    """Base class of all tables: unknown keys are errors, and a string is not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)
