"""llama.cpp's server (tools/server/README.md)."""

from budgateway.kinds.kind import Kind

KIND = Kind(
    name="llamacpp",
    precedence=8,
    endpoints_variable="LLAMACPP_ENDPOINTS",
    key_variable="LLAMACPP_API_KEY",
    # Later versions also speak openai.responses and anthropic.messages: `dialects` of the provider.
    dialects=("openai.chat", "openai.completions"),
    probe_path="/health",
    # It has metrics when started with --metrics.
    load_paths=("/metrics",),
    running=("llamacpp:requests_processing",),
    waiting=("llamacpp:requests_deferred",),
    kv_usage=("llamacpp:kv_cache_usage_ratio",),
)
