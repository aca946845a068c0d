"""Google's Gemini API: its own calls, and those of its endpoints for OpenAI's clients."""

from budgateway.kinds.kind import Kind, Move

KIND = Kind(
    name="gemini",
    precedence=5,
    key_variable="GEMINI_API_KEY",
    dialects=("gemini.generate", "openai.chat"),
    base_url="https://generativelanguage.googleapis.com",
    key_header="x-goog-api-key",
    key_prefix="",
    moves=(
        Move("/v1/chat/completions", "/v1beta/openai/chat/completions"),
        Move("/v1/embeddings", "/v1beta/openai/embeddings"),
        Move("/v1/images/generations", "/v1beta/openai/images/generations"),
        Move("/v1/models*", "/v1beta/openai/models*"),
    ),
    models_path="/v1beta/openai/models",
    lists_all=False,
)
