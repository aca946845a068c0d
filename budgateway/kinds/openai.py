"""OpenAI, and every server with an OpenAI API that has no kind of its own."""

from budgateway.kinds.kind import VENDOR_HEADERS, Kind

KIND = Kind(
    name="openai",
    precedence=0,
    key_variable="OPENAI_API_KEY",
    dialects=("openai.chat", "openai.completions", "openai.responses"),
    base_url="https://api.openai.com",
    vendor_headers=VENDOR_HEADERS,
    # llama.cpp's server, where engine_metrics_path is set.
    running=("llamacpp:requests_processing",),
    waiting=("llamacpp:requests_deferred",),
    kv_usage=("llamacpp:kv_cache_usage_ratio",),
)
