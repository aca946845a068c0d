"""SGLang's server (docs: references/production_metrics)."""

from budgateway.kinds.kind import Kind

KIND = Kind(
    name="sglang",
    precedence=2,
    endpoints_variable="SGLANG_ENDPOINTS",
    key_variable="SGLANG_API_KEY",
    dialects=("openai.chat", "openai.completions", "openai.responses", "anthropic.messages", "anthropic.count"),
    probe_path="/health",
    # It has metrics when started with --enable-metrics; its own report was /get_load in earlier versions.
    load_paths=("/metrics", "/v1/loads", "/get_load"),
    running=("sglang:num_running_reqs",),
    waiting=("sglang:num_queue_reqs",),
    kv_usage=("sglang:token_usage",),
)
