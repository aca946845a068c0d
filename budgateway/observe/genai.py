"""OpenTelemetry's names for generative AI: operations by path, and providers by kind."""

from __future__ import annotations

_OPERATIONS = (
    ("/chat/completions", "chat"),
    ("/messages", "chat"),
    ("/responses", "chat"),
    ("/completions", "text_completion"),
    ("/generate", "text_completion"),
    ("/embeddings", "embeddings"),
    (":generateContent", "generate_content"),
    (":streamGenerateContent", "generate_content"),
)
# Values of the conventions' `gen_ai.provider.name`; other kinds are named by themselves.
_PROVIDERS = {"mistral": "mistral_ai", "gemini": "gcp.gemini", "azure": "azure.ai.openai", "bedrock": "aws.bedrock"}


def operation_of(path: str) -> str:
    """Return the operation of a request's path; empty for a path without one in the conventions."""
    return next((operation for end, operation in _OPERATIONS if path.endswith(end)), "")


def provider_name(kind: str) -> str:
    """Return the value of `gen_ai.provider.name` for a kind of provider."""
    return _PROVIDERS.get(kind, kind or "unknown")
