"""Errors in the responses of inference APIs."""

from __future__ import annotations

from typing import Any

from budgateway.wire.document import printable, read_json

# The body of a 200 that begins like this is an error.
ERROR_BODIES = (
    b'{"error":{',
    b'{"error": {',
    b'{"error":"',
    b'{"error": "',
    b'{"object":"error"',
    b'{"object": "error"',
)
# Words of an error about a prompt that exceeds the model's context: OpenAI's code, engines', Anthropic's and Gemini's.
_CONTEXT = (b"context_length_exceeded", b"context length", b"context size", b"prompt is too long", b"input token count")
# Characters of an upstream's error message; a longer one is a stack trace.
MAX_MESSAGE = 300


def told_error(text: bytes) -> tuple[int, str]:
    """Return the status and message of the error in a document, or in the first event of a stream; 500 and an empty
    message when it has none."""
    document = _document(text)
    error = document.get("error", document)
    if isinstance(error, str):
        return _status(document) or 500, printable(error, MAX_MESSAGE)
    if not isinstance(error, dict):
        return 500, ""
    message = error.get("message")
    status = _status(error) or _status(document) or 500
    return status, printable(message, MAX_MESSAGE) if isinstance(message, str) else ""


def is_context_error(text: bytes) -> bool:
    """Return whether an error says that the prompt exceeds the model's context (OpenAI's code; engines' and Anthropic's
    texts)."""
    return any(words in text for words in _CONTEXT)


def _document(text: bytes) -> dict[str, Any]:
    """Return the JSON object of a document, or of the first event with data; {} when there is none."""
    if not text.lstrip().startswith(b"{"):
        lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        text = next((line[5:] for line in lines if line.startswith(b"data:") and line[5:].strip()), b"")
    try:
        document = read_json(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


# Statuses of Anthropic's and OpenAI's error names, for errors without a number.
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "BadRequestError": 400,
    "context_length_exceeded": 400,
    "rate_limit_exceeded": 429,
}


def _status(error: dict[str, Any]) -> int:
    for name in ("code", "status", "status_code", "type"):
        value = error.get(name)
        if isinstance(value, str):
            value = int(value) if value.isascii() and value.isdecimal() and len(value) == 3 else _STATUSES.get(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return 0
