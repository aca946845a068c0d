"""Errors of upstreams in the client's dialect."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from budgateway.errors import GatewayError
from budgateway.wire.dialects import DIALECTS
from budgateway.wire.document import printable, read_json
from budgateway.wire.error_response import error_document
from budgateway.wire.inference import MAX_MESSAGE, is_context_error

if TYPE_CHECKING:
    from budgateway.exchange.exchange_cy import Exchange

# Anthropic's own words: agents make room in their conversation when they read them.
_TOO_LONG = "prompt is too long: "
# OpenAI's type and code by status; others: invalid_request_error below 500, server_error from 500 on.
_OPENAI = {
    401: ("authentication_error", None),
    403: ("permission_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("server_error", "overloaded"),
    504: ("server_error", "upstream_timeout"),
    529: ("server_error", "overloaded"),
}


class _Told(GatewayError):
    """An error that an upstream reported."""


def translated_error(x: Exchange, body: bytes) -> bytes:
    """Return the body of an upstream's error response in the client's dialect. The message is the upstream's, up to 300
    characters; what is no JSON has none."""
    message, param, code = _read(body)
    error = _Told(message or HTTPStatus(x.status).phrase.lower())
    document = error_document(error, x.request_id, x.dialect)
    kind: Any
    is_long = x.status in (400, 413) and is_context_error(body)
    if DIALECTS[x.dialect].family == "anthropic":
        kind = _anthropic_type(x.status)
        if is_long:
            kind = "invalid_request_error"
            if not message.startswith(_TOO_LONG):
                document["error"]["message"] = _TOO_LONG + str(error)
        document["error"]["type"] = kind
    else:
        kind, own = _OPENAI.get(x.status, ("invalid_request_error" if x.status < 500 else "server_error", None))
        document["error"] |= {"type": kind, "param": param, "code": code or own}
        if is_long:
            document["error"]["code"] = "context_length_exceeded"
    return json.dumps(document).encode()


_ANTHROPIC = {
    401: "authentication_error",
    402: "rate_limit_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def _anthropic_type(status: int) -> str:
    return _ANTHROPIC.get(status, "invalid_request_error" if status < 500 else "api_error")


def _read(body: bytes) -> tuple[str, str | None, str | None]:
    """Return the message, the field and the code of an error document, as far as it has them."""
    try:
        document = read_json(body)
    except ValueError:
        return "", None, None
    if not isinstance(document, dict):
        return "", None, None
    error = document.get("error", document)
    if isinstance(error, str):
        return printable(error, MAX_MESSAGE), None, None
    if not isinstance(error, dict):
        return "", None, None
    detail = error.get("detail")
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        # FastAPI's: a list of violations, each with its place.
        first = detail[0]
        place = first.get("loc")
        param = ".".join(str(step) for step in place if step != "body") if isinstance(place, list) else None
        return printable(str(first.get("msg", "")), MAX_MESSAGE), param, None
    message = error.get("message", detail)
    param, code = error.get("param"), error.get("code")
    return (
        printable(message, MAX_MESSAGE) if isinstance(message, str) else "",
        param if isinstance(param, str) else None,
        code if isinstance(code, str) else None,
    )
