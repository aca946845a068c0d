"""LiteLLM's proxy: what a Python user would use instead."""

from __future__ import annotations

import secrets
from typing import ClassVar

from benchmarks.load.peers.base import Launch, Peer, module_version, peer_python
from benchmarks.load.setups import MODEL

CONFIG = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: {upstream}/v1, api_key: none}}
litellm_settings: {{telemetry: false}}
"""


class Litellm(Peer):
    """One worker, no database; a key of this run, without which it refuses to start."""

    name: ClassVar[str] = "litellm"
    does: ClassVar[str] = (
        "parses and rebuilds request and reply, routes by model, checks its key, counts tokens and cost; gets 8 connections, 8 streams of 50 chunks, 30 requests/s"
    )
    faithful: ClassVar[bool] = False
    slow: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._key = f"sk-{secrets.token_hex(24)}"

    def installed(self) -> bool:
        python = peer_python()
        return (
            python is not None
            and module_version(python, "litellm") is not None
            and (python.parent / "litellm").exists()
        )

    def version(self) -> str:
        python = peer_python()
        return (python and module_version(python, "litellm")) or "?"

    def command(self, launch: Launch) -> list[str]:
        python = peer_python()
        assert python is not None
        # Without this it fetches its price list from the network.
        launch.environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        launch.environment["LITELLM_MASTER_KEY"] = self._key
        config = launch.write("litellm.yaml", CONFIG.format(model=MODEL, upstream=launch.upstream))
        script = str(python.parent / "litellm")
        return [
            script,
            "--config",
            str(config),
            "--host",
            "127.0.0.1",
            "--port",
            str(launch.port),
            "--num_workers",
            "1",
        ]

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key}"}
