"""The admin server's listeners: with a separate metrics port, or without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from budgateway import native
from budgateway.admin.server import AdminServer
from budgateway.process.embedded import Gateway
from budgateway.records import Settings


@pytest.mark.parametrize("own", [True, False])
async def test_metrics_on_port_zero_have_no_port(own: bool, free_port: Callable[[], int]) -> None:
    settings = Settings(metrics_port=free_port() if own else 0)
    admin_server = AdminServer(settings, native.Segment(1), lambda: True, Gateway(settings))
    await admin_server.open()
    assert admin_server.metrics_url == (f"http://127.0.0.1:{settings.metrics_port}/metrics" if own else "")
    await admin_server.close()
    await asyncio.sleep(0)  # servers close their sockets a turn later
