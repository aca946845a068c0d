"""The routers of the engines' own projects (Rust behind a Python launcher): smg, sglang-router, vllm-router."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.load.peers.base import Launch, Peer, free_port, module_version, peer_python


class _Router(Peer):
    """Started by module, not by script: the wheels of smg and sglang-router both install a script named `smg`."""

    module: ClassVar[str]
    distribution: ClassVar[str]
    words: ClassVar[tuple[str, ...]]
    warnings: ClassVar[str] = "warn"

    def installed(self) -> bool:
        python = peer_python()
        return python is not None and module_version(python, self.distribution) is not None

    def version(self) -> str:
        python = peer_python()
        return (python and module_version(python, self.distribution)) or "?"

    def command(self, launch: Launch) -> list[str]:
        python = peer_python()
        assert python is not None
        options = {
            "--host": "127.0.0.1",
            "--port": str(launch.port),
            "--worker-urls": launch.upstream,
            # The cheapest they have: cache_aware keeps a tree of prompts.
            "--policy": "round_robin",
            "--log-level": self.warnings,
            "--prometheus-host": "127.0.0.1",
            "--prometheus-port": str(free_port()),
        }
        return [str(python), "-m", self.module, *self.words, *(word for pair in options.items() for word in pair)]


class Smg(_Router):
    """Shepherd model gateway, HTTP to one worker, its defaults otherwise."""

    name: ClassVar[str] = "smg"
    does: ClassVar[str] = (
        "parses the request, round robin, retries, breaker and metrics on (its defaults), warnings only"
    )
    module: ClassVar[str] = "smg"
    distribution: ClassVar[str] = "smg"
    words: ClassVar[tuple[str, ...]] = ("launch",)


class SglangRouter(_Router):
    """SGLang's router, its defaults otherwise."""

    name: ClassVar[str] = "sglang-router"
    does: ClassVar[str] = (
        "parses the request, round robin, retries, breaker and metrics on (its defaults), warnings only"
    )
    module: ClassVar[str] = "sglang_router"
    distribution: ClassVar[str] = "sglang-router"
    words: ClassVar[tuple[str, ...]] = ("launch",)


class VllmRouter(_Router):
    """vLLM's router, its defaults otherwise."""

    name: ClassVar[str] = "vllm-router"
    does: ClassVar[str] = (
        "parses the request, round robin, retries, breaker and metrics on (its defaults), warnings only"
    )
    module: ClassVar[str] = "vllm_router.launch_router"
    distribution: ClassVar[str] = "vllm-router"
    words: ClassVar[tuple[str, ...]] = ()
    warnings: ClassVar[str] = "warning"
