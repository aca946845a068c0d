"""Hugging Face's text-generation-inference (docs: reference/metrics, messages_api)."""

from budgateway.kinds.kind import Kind

KIND = Kind(
    name="tgi",
    precedence=9,
    endpoints_variable="TGI_ENDPOINTS",
    key_variable="TGI_API_KEY",
    dialects=("openai.chat", "openai.completions"),
    probe_path="/health",
    load_paths=("/metrics",),
    running=("tgi_batch_current_size",),
    waiting=("tgi_queue_size",),
)
