"""The admin server's listeners: with a separate metrics port, or without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from budgateway import native
from budgateway.admin.desk import Desk
from budgateway.process.gateway import Gateway
from budgateway.records import Settings


@pytest.mark.parametrize("own", [True, False])
async def test_metrics_on_port_zero_have_no_port(own: bool, free_port: Callable[[], int]) -> None:
    settings = Settings(metrics_port=free_port() if own else 0)
    desk = Desk(settings, native.Segment(1), lambda: True, Gateway(settings))
    await desk.open()
    assert desk.metrics_url == (f"http://127.0.0.1:{settings.metrics_port}/metrics" if own else "")
    await desk.close()
    await asyncio.sleep(0)  # servers close their sockets a turn later
