"""vLLM's OpenAI-compatible server (docs: serving/openai_compatible_server, usage/metrics)."""

from budgateway.kinds.kind import Kind

KIND = Kind(
    name="vllm",
    precedence=1,
    endpoints_variable="VLLM_ENDPOINTS",
    key_variable="VLLM_API_KEY",
    dialects=("openai.chat", "openai.completions", "openai.responses", "anthropic.messages", "anthropic.count"),
    probe_path="/health",
    load_paths=("/metrics",),
    running=("vllm:num_requests_running",),
    waiting=("vllm:num_requests_waiting",),
    # kv_cache_usage_perc since V1 (0.9), gpu_cache_usage_perc before; both are shares of 1.
    kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
)
