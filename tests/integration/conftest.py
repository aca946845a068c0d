"""Servers that the integration tests share: each starts once a session, when the first test asks for it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop
from integration.gateways import gateway
from integration.processes import running
from ports import free_port
from upstreams import litellm, llamacpp

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

# Straight to the server as a control: what fails there is no fault of the gateway.
FRONTS = ["direct", "gateway"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests with a gateway on their own loop say in `LOOPS` which kinds: workers have uvloop, programs whatever they like."""
    names: tuple[str, ...] = getattr(getattr(item, "module", None), "LOOPS", ("asyncio",))
    return {name: LOOPS[name] for name in names}


@pytest.fixture(scope="session")
def demo_url() -> Iterator[str]:
    """The demo model server."""
    command = [sys.executable, "-m", "budgateway.demo", "--port", "0", "--token-delay", "0"]
    with running(command) as server:
        server.wait_for_url()
        yield server.url


@pytest.fixture(scope="session", params=FRONTS)
def base_url(request: pytest.FixtureRequest, demo_url: str) -> Iterator[str]:
    """The demo server, straight and through a gateway."""
    with in_front(request.param, demo_url, "openai") as url:
        yield url


@pytest.fixture(scope="session")
def llamacpp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A llama.cpp server with a tiny model."""
    if llamacpp.MISSING:
        pytest.skip(llamacpp.ABSENT)
    model = tmp_path_factory.mktemp("llamacpp") / "tiny.gguf"
    with running([sys.executable, llamacpp.__file__, model]) as server:
        server.wait_for_url()
        server.wait_for("/health")
        yield server.url


@pytest.fixture(scope="session")
def litellm_url(tmp_path_factory: pytest.TempPathFactory, demo_url: str) -> Iterator[str]:
    """A LiteLLM proxy in front of the demo server."""
    if not litellm.COMMAND.exists():
        pytest.skip(litellm.ABSENT)
    config: Path = tmp_path_factory.mktemp("litellm") / "config.yaml"
    config.write_text(litellm.configuration(demo_url))
    port = free_port()
    with running(litellm.command(config, port), litellm.ENVIRONMENT) as server:
        server.url = f"http://127.0.0.1:{port}"
        server.wait_for(litellm.READY)
        yield server.url


@contextmanager
def in_front(front: str, url: str, kind: str, **options: object) -> Iterator[str]:
    """The server itself (`direct`) or a gateway before it."""
    if front == "direct":
        yield url
    else:
        with gateway(url, kind=kind, **options) as server:  # type: ignore[arg-type]
            yield server.url
