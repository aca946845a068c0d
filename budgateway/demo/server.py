"""The demo server's life cycle: bind, answer, close."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from budgateway.demo.api import Api
from budgateway.demo.http import Connection


class DemoServer:
    """A model server without a model: `async with DemoServer() as demo: demo.url`.

    It serves the OpenAI API and always returns the same bytes for the same request, so that an answer through a gateway
    can be compared with a direct one. `port` 0 takes a free one; `token_delay_s` passes between two streamed tokens. It
    has no authentication: bind it to loopback.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, token_delay_s: float = 0.02) -> None:
        self._host = host
        self._port = port
        self._api = Api(token_delay_s)
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    @property
    def url(self) -> str:
        """The base URL, `http://host:port`, once started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def open_connections(self) -> int:
        """Number of clients connected now."""
        return len(self._connections)

    async def start(self) -> None:
        """Bind and listen; raises OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._api.handle, self._connections), self._host, self._port, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop the open connections."""
        if self._server is None:
            return
        self._server.close()
        tasks = [task for connection in list(self._connections) if (task := connection.abort())]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
