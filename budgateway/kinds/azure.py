"""Azure OpenAI: a resource's deployments, which are named in the path."""

from budgateway.kinds.kind import VENDOR_HEADERS, Kind, Move
from budgateway.kinds.openai import ENGINE_PARAMETERS

KIND = Kind(
    name="azure",
    precedence=6,
    endpoints_variable="AZURE_OPENAI_ENDPOINT",
    key_variable="AZURE_OPENAI_API_KEY",
    dialects=("openai.chat", "openai.completions", "openai.responses"),
    key_header="api-key",
    key_prefix="",
    vendor_headers=VENDOR_HEADERS,
    refused=ENGINE_PARAMETERS,
    moves=(
        # Named in the body; all other calls with a model are a deployment's.
        Move("/v1/responses*", "/openai/responses*", "api-version={api_version}"),
        Move("/v1/batches*", "/openai/batches*", "api-version={api_version}"),
        Move("/v1/*", "/openai/deployments/{model}/*", "api-version={api_version}"),
        Move("/v1/*", "/openai/*", "api-version={api_version}"),
    ),
    # The first version with responses is 2025-03-01-preview; this one is the latest that is generally available.
    api_version="2024-10-21",
    models_path="/openai/models?api-version={api_version}",
    lists_all=False,
)
