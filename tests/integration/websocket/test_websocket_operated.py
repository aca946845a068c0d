"""WebSockets through a gateway of several processes: counted, kept over a reload, told of a drain, lost with their worker alone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

import jwt
import pytest
from integration.operated import SECRET, operated
from integration.websocket.test_websocket import echo, plain
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

ROUTE = {"websocket": {"idle_timeout": 30}, "pin_by": "key"}


def total(metrics: str, name: str, *labels: str) -> float:
    """Of all workers together."""
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", metrics, re.M)
    return sum(float(value) for given, value in found if all(label in given for label in labels))


async def test_sockets_of_several_workers_are_one_gateways(tmp_path: object) -> None:
    token = jwt.encode({"sub": "alice", "exp": int(time.time()) + 600}, SECRET, algorithm="HS256")
    async with serve(echo, "127.0.0.1", 0, subprotocols=["realtime"]) as server:  # type: ignore[list-item]
        upstream = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        extra = '[auth]\njwt_secret = "env:JWT_SECRET"\n'
        route = ROUTE | {"auth_required": True}
        async with operated([upstream], extra=extra, route=route, settings={"drain_timeout": 3.0}) as gateway:
            url = gateway.url.replace("http", "ws", 1) + "/v1/realtime?model=m"
            with pytest.raises(InvalidStatus) as refused:
                await plain(url)
            assert refused.value.response.status_code == 401
            with pytest.raises(InvalidStatus) as refused:
                await plain(url, subprotocols=["realtime", "openai-insecure-api-key.sk-nobody"])
            assert refused.value.response.status_code == 401

            # As a browser says who it is, and as a program does.
            clients = [
                await plain(url, subprotocols=["realtime", f"openai-insecure-api-key.{token}"]) for _ in range(4)
            ]
            clients += [
                await plain(url, subprotocols=["realtime"], additional_headers={"Authorization": f"Bearer {token}"})
                for _ in range(4)
            ]
            for number, client in enumerate(clients):
                await client.send(f"hello {number}")
                assert await client.recv() == f"hello {number}"
                assert client.subprotocol == "realtime"
            await gateway.until(lambda stats: stats["in_flight"] == 8)
            await asyncio.sleep(0.6)  # two sweeps: counts are published then
            metrics = await gateway.metrics()
            assert total(metrics, "budgateway_websockets") == 8
            assert total(metrics, "budgateway_websocket_frames_total", 'direction="in"') == 8
            assert total(metrics, "budgateway_websocket_bytes_total", 'direction="out"') > 8 * 7

            # A reload leaves them alone.
            gateway.configure([upstream], settings={"request_timeout": 7}, route=route)
            status, _ = await gateway.call("POST", "/admin/reload-config")
            assert status == 200
            for client in clients:
                await client.send("still here")
                assert await client.recv() == "still here"
            for client in clients[4:]:
                await client.close(4000, "done")
            await gateway.until(lambda stats: stats["in_flight"] == 4)

            # A worker that dies takes its own with it.
            os.kill((await gateway.pids())[0], signal.SIGKILL)
            await gateway.until(lambda stats: sum(worker["state"] == "ready" for worker in stats["workers"]) == 2)
            left = []
            for client in clients[:4]:
                try:
                    await client.send("who is left")
                    assert await client.recv() == "who is left"
                    left.append(client)
                except ConnectionClosed:
                    pass
            left.append(await plain(url, subprotocols=["realtime", f"openai-insecure-api-key.{token}"]))

            # SIGTERM: they have the drain's whole time, then hear 1001.
            gateway.signal(signal.SIGTERM)
            await asyncio.sleep(0.5)
            for client in left:
                await client.send("yet")
                assert await client.recv() == "yet"
            codes = set()
            for client in left:
                with pytest.raises(ConnectionClosed):
                    await client.recv()
                codes.add(client.close_code)
            assert codes == {1001}
            assert await gateway.ended() == 0
