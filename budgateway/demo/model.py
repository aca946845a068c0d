"""The demo model: deterministic words, vectors, pictures and tool calls, with exact token counts."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Any

CACHE_BLOCK_TOKENS = 16  # prompts are "cached" in whole blocks, as vLLM's prefix cache counts
EMBEDDING_DIMENSIONS = 8
MAX_EMBEDDING_DIMENSIONS = 8192
MAX_CHOICES = 128  # OpenAI's own limit for `n`

_TOKEN = re.compile(r"\s*(?:\w+|[^\w\s])|\s+$")


def tokens_of(text: str) -> list[str]:
    """Split the text into tokens: words and punctuation, each with the space before it. Joined, they are the text
    again."""
    return _TOKEN.findall(text)


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion: its tokens and its finish reason."""

    tokens: list[str]
    finish_reason: str

    @property
    def text(self) -> str:
        """All tokens as one string."""
        return "".join(self.tokens)


def answer(
    question: str, *, variant: int = 0, stop: list[str] | None = None, max_tokens: int | None = None
) -> Completion:
    """Return a friendly sentence about the question; `variant` makes the choices of one request differ."""
    said = f'You said: "{question}". ' if question else ""
    text = f"{said}I am the demo model: I only repeat, but I stream, count tokens and never tire."
    if variant:
        text = f"({variant + 1}) {text}"
    finish_reason = "stop"
    ends = [at for sign in stop or [] if sign and (at := text.find(sign)) >= 0]
    if ends:
        text = text[: min(ends)]
    tokens = tokens_of(text)
    if max_tokens is not None and len(tokens) > max_tokens:
        tokens, finish_reason = tokens[:max_tokens], "length"
    return Completion(tokens, finish_reason)


def choices_of(wish: dict[str, Any]) -> int:
    """Return the number of answers that the request's `n` asks for. Raises ValueError beyond the limit."""
    count = int(wish.get("n") or 1)
    if not 1 <= count <= MAX_CHOICES:
        raise ValueError(f"n must be between 1 and {MAX_CHOICES}, not {count}")
    return count


def usage(tokens_in: int, tokens_out: int) -> dict[str, Any]:
    """Return usage in the form of chat and text completions."""
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": cached(tokens_in)},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def cached(tokens_in: int) -> int:
    """Return how many of the prompt's tokens count as cached."""
    return tokens_in // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS


def identity(prefix: str, body: bytes) -> str:
    """Return an id that is the same for the same request."""
    return f"{prefix}{hashlib.sha256(body).hexdigest()[:24]}"


def embedding(text: str, dimensions: int = EMBEDDING_DIMENSIONS) -> list[float]:
    """Return a unit vector that depends only on the text; its numbers are exact in 32 bits."""
    if not 1 <= dimensions <= MAX_EMBEDDING_DIMENSIONS:
        raise ValueError(f"dimensions must be between 1 and {MAX_EMBEDDING_DIMENSIONS}, not {dimensions}")
    raw = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
    numbers = [number / 32768.0 for number in struct.unpack(f"<{dimensions}h", raw)]
    length = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return list(
        struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(number / length for number in numbers)))
    )


def embedding_base64(vector: list[float]) -> str:
    """Encode the vector as OpenAI's `encoding_format: base64`: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")


def relevance(query: str, document: str) -> float:
    """Return the share of the query's words that the document contains."""
    wanted = {word.lower() for word in re.findall(r"\w+", query)}
    found = {word.lower() for word in re.findall(r"\w+", document)}
    return round(len(wanted & found) / len(wanted), 6) if wanted else 0.0


def picture(prompt: str) -> str:
    """Return a PNG of one pixel in the prompt's own colour, in base64."""
    colour = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:3]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" + colour))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(data).decode("ascii")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call: the function's name and its arguments as JSON text."""

    name: str
    arguments: str

    @property
    def pieces(self) -> list[str]:
        """The arguments in the pieces that are streamed."""
        return [self.arguments[at : at + 8] for at in range(0, len(self.arguments), 8)]


def tool_calls(question: str, functions: list[dict[str, Any]], choice: object) -> list[ToolCall]:
    """Return the calls to make, none when the answer is text.

    `choice` is the request's tool_choice: `none`, `required`, a named function, or `auto`, which calls a function when
    the question contains a word of its name (`weather` calls `get_weather`).
    """
    if choice == "none" or not functions:
        return []
    named = choice.get("function", choice).get("name") if isinstance(choice, dict) else None
    if named is not None:
        wanted = [function for function in functions if function["name"] == named]
    else:
        words = {word.lower() for word in re.findall(r"[^\W_]+", question)}
        wanted = [
            f for f in functions if words & {part for part in re.split(r"[\W_]+", f["name"].lower()) if len(part) > 3}
        ]
        if not wanted and choice == "required":
            wanted = functions[:1]
    return [ToolCall(f["name"], json.dumps(_example(f.get("parameters") or {}, question))) for f in wanted]


def _example(schema: dict[str, Any], question: str) -> Any:
    """Return a value that fits the (simple) JSON schema; strings take the question's last word."""
    if schema.get("enum"):
        return schema["enum"][0]
    match schema.get("type", "object"):
        case "object":
            return {name: _example(part, question) for name, part in (schema.get("properties") or {}).items()}
        case "array":
            return [_example(schema.get("items") or {"type": "string"}, question)]
        case "integer":
            return 1
        case "number":
            return 1.5
        case "boolean":
            return True
        case _:
            words = re.findall(r"\w+", question)
            return words[-1] if words else "demo"
