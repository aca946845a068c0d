"""A real LiteLLM proxy. It is heavy (0.7 GB, 70 s to install) and lives in a venv of its own, made by `make peers`."""

from __future__ import annotations

import os
from pathlib import Path

from corpora import ROOT

COMMAND = Path(os.environ.get("BUDGATEWAY_LITELLM") or ROOT / ".venv-litellm" / "bin" / "litellm")
ABSENT = f"no LiteLLM proxy at {COMMAND}: run `make peers`"
READY = "/health/liveliness"  # its spelling; /health wants a key and asks every model
KEY = "sk-litellm-of-the-tests"

# The price list comes with the package: a proxy under test asks nobody on the internet.
ENVIRONMENT = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY, "LITELLM_LOG": "ERROR"}


def configuration(upstream_url: str) -> str:
    """A proxy of the demo server's models, which are behind `upstream_url`."""
    return f"""\
model_list:
  - model_name: demo
    litellm_params: {{model: openai/demo, api_base: "{upstream_url}/v1", api_key: none}}
  - model_name: demo-embed
    litellm_params: {{model: openai/demo-embed, api_base: "{upstream_url}/v1", api_key: none}}
litellm_settings: {{num_retries: 0, telemetry: false}}
"""


def command(config: Path, port: int) -> list[str | Path]:
    """Return the command line of the proxy."""
    return [COMMAND, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
