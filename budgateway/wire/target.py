"""Models named in a request's query or path, which WebSocket upstreams and some other servers read before the body."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

from budgateway.errors import BadRequest

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# Path segments before a model: Google's and OpenAI's `models`, Azure's `deployments`, LiteLLM's `engines`.
_NAMING = re.compile(r"/(?:models?|engines|deployments)/", re.IGNORECASE)


def query_model(query: str) -> str | None:
    """Return the query's `model`, or None. BadRequest when parsers would disagree about it: it is repeated, spelled
    differently or behind a semicolon (once a parameter separator), or its value is not UTF-8 text."""
    found = [(piece, piece != part) for part in query.split("&") for piece in part.split(";") if _says_model(piece)]
    if not found:
        return None
    if len(found) > 1:
        raise BadRequest("the query names a model twice", param="model")
    piece, is_part = found[0]
    name, _, value = piece.partition("=")
    try:
        model = unquote_plus(value, errors="strict")
    except UnicodeDecodeError:
        model = "\0"
    is_plain = unquote_plus(name) == "model" and value.isascii() and not _BAD_ESCAPE.search(piece)
    if is_part or not is_plain or not model.isprintable():
        raise BadRequest("the query names a model ambiguously", param="model")
    return model or None


def _says_model(piece: str) -> bool:
    """Return whether some parser would read this parameter's name as `model`."""
    return unquote_plus(piece.partition("=")[0]).strip().casefold().partition("[")[0] == "model"


def target_agrees(path: str, query: str, model: str) -> bool:
    """Return whether no server takes another model from the target than the body's. LiteLLM prefers the query's and the
    path's model to the body's; Azure runs the path's."""
    if "model" in query.lower() or "%" in query:
        try:
            named = query_model(query)
        except BadRequest:
            return False
        if named not in (None, model):
            return False
    text = unquote(path)
    return all(
        text.startswith(model, at.end()) and text[at.end() + len(model) :][:1] in ("", "/", ":")
        for at in _NAMING.finditer(text)
    )
