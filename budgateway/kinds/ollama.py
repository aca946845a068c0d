"""Ollama's server (docs: openai.md, api.md)."""

from budgateway.kinds.kind import Kind

KIND = Kind(
    name="ollama",
    precedence=7,
    endpoints_variable="OLLAMA_ENDPOINTS",
    key_variable="OLLAMA_API_KEY",
    # Later versions also speak openai.responses and anthropic.messages: `dialects` of the provider.
    dialects=("openai.chat", "openai.completions"),
    probe_path="/api/version",
    lists_all=False,
)
