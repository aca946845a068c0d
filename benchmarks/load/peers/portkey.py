"""Portkey's gateway (`npm install @portkey-ai/gateway`), on node."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

from benchmarks.load.peers.base import Launch, Peer, beside_checkout, tool


class Portkey(Peer):
    """One process; the upstream is named in each request's headers, as its users do."""

    name: ClassVar[str] = "portkey"
    does: ClassVar[str] = (
        "parses and rebuilds request and reply; provider and host come with each request's headers; answers every stream "
        "from a plain-HTTP upstream with 500 (`TypeError: immutable`) as npm installs it, so it has no stream figures"
    )
    faithful: ClassVar[bool] = False
    cannot: ClassVar[frozenset[str]] = frozenset({"stream"})

    def __init__(self) -> None:
        super().__init__()
        self._upstream = ""

    def installed(self) -> bool:
        return tool("node") is not None and self._package().exists()

    def version(self) -> str:
        return str(json.loads((self._package() / "package.json").read_text())["version"])

    def command(self, launch: Launch) -> list[str]:
        self._upstream = launch.upstream
        launch.environment |= {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
        return [
            tool("node") or "node",
            str(self._package() / "build" / "start-server.js"),
            f"--port={launch.port}",
            "--headless",
        ]

    def headers(self) -> dict[str, str]:
        return {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{self._upstream}/v1",
            "authorization": "Bearer none",
        }

    def _package(self) -> Path:
        folder = os.environ.get("BUDGATEWAY_PORTKEY", str(beside_checkout() / "portkey"))
        return Path(folder) / "node_modules" / "@portkey-ai" / "gateway"
