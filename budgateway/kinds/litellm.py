"""LiteLLM's proxy, which translates to the providers behind it."""

from budgateway.kinds.kind import VENDOR_HEADERS, Kind

KIND = Kind(
    name="litellm",
    precedence=3,
    endpoints_variable="LITELLM_ENDPOINT",
    key_variable="LITELLM_API_KEY",
    dialects=("openai.chat", "openai.completions", "openai.responses", "anthropic.messages", "anthropic.count"),
    vendor_headers=VENDOR_HEADERS,
    # `/health` calls every model behind it; this one checks only the server, and needs no key.
    probe_path="/health/liveliness",
)
