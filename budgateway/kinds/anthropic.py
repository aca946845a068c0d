"""Anthropic's API."""

from budgateway.kinds.kind import Kind

KIND = Kind(
    name="anthropic",
    precedence=4,
    key_variable="ANTHROPIC_API_KEY",
    dialects=("anthropic.messages", "anthropic.count"),
    base_url="https://api.anthropic.com",
    key_header="x-api-key",
    key_prefix="",
    vendor_headers=("anthropic-beta", "anthropic-dangerous-direct-browser-access"),
    # Required, and the only version that there is; clients of other dialects do not send it.
    headers=(("anthropic-version", "2023-06-01"),),
    lists_all=False,
)
