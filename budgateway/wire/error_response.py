"""Error responses in the client's dialect: a whole response, or an event in a stream."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from budgateway.errors import GatewayError
from budgateway.wire.date import date_line
from budgateway.wire.dialects import DIALECTS

# Anthropic's error types by status (docs: errors). Others: invalid_request_error below 500, api_error from 500 on.
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_document(error: GatewayError, request_id: str, dialect: int) -> dict[str, Any]:
    """Return the error in the shape that a dialect's clients expect: Anthropic's on its messages API, else OpenAI's."""
    message = str(error)
    if error.hint:
        message = f"{message} ({error.hint})"
    if DIALECTS[dialect].family == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
    return {
        "error": {
            "message": message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "request_id": request_id,
        }
    }


def body_bytes(error: GatewayError, request_id: str, dialect: int) -> bytes:
    """Return the body of an error response."""
    return json.dumps(error_document(error, request_id, dialect)).encode()


def response_bytes(
    error: GatewayError, request_id: str, body: bytes, close: bool, attempts: int = 0, more: bytes = b""
) -> bytes:
    """Return a whole error response with this JSON body. Reports the number of `attempts` unless that is 0. `more` are
    further header lines, each with its CRLF."""
    lines = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        date_line(),
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
    ]
    if error.retry_after_s:
        # Whole seconds, rounded up: a client that waits that long must not come too early (RFC 9110 10.2.3).
        lines.append(f"retry-after: {int(error.retry_after_s) + 1}")
    if error.status == HTTPStatus.UNAUTHORIZED:
        lines.append('www-authenticate: Bearer realm="budgateway"')
    if attempts:
        lines.append(f"x-budgateway-attempts: {attempts}")
    options = ["close"] if close else []
    if error.status == HTTPStatus.UPGRADE_REQUIRED:
        # RFC 9110 15.5.22 and 7.8, RFC 6455 4.2.2.
        lines += ["upgrade: websocket", "sec-websocket-version: 13"]
        options.append("upgrade")
    if options:
        lines.append(f"connection: {', '.join(options)}")
    return "\r\n".join(lines).encode("ascii") + b"\r\n" + error.lines + more + b"\r\n" + body


def event_bytes(error: GatewayError, request_id: str, dialect: int) -> bytes:
    """Return the error as a server-sent event, in the format of the dialect's streams."""
    if DIALECTS[dialect].typed_events:
        document = {
            "type": "error",
            "code": error.code,
            "message": str(error),
            "param": error.param,
            "sequence_number": 0,
            "request_id": request_id,
        }
    else:
        document = error_document(error, request_id, dialect)
    name = b"event: error\n" if "type" in document else b""
    return name + b"data: " + json.dumps(document).encode() + b"\n\n"
