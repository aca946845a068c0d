"""OpenAI, and every server with an OpenAI API that has no kind of its own."""

from budgateway.kinds.kind import VENDOR_HEADERS, Kind

# Parameters of engines, which OpenAI's own API refuses as unknown.
ENGINE_PARAMETERS = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "length_penalty",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "skip_special_tokens",
    "chat_template_kwargs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
)

KIND = Kind(
    name="openai",
    precedence=0,
    key_variable="OPENAI_API_KEY",
    dialects=("openai.chat", "openai.completions", "openai.responses"),
    base_url="https://api.openai.com",
    vendor_headers=VENDOR_HEADERS,
    refused=ENGINE_PARAMETERS,
    # llama.cpp's server, where engine_metrics_path is set.
    running=("llamacpp:requests_processing",),
    waiting=("llamacpp:requests_deferred",),
    kv_usage=("llamacpp:kv_cache_usage_ratio",),
)
