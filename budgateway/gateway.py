"""The gateway inside a Python program: one worker and its back office on the running loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway import native
from budgateway.admin.desk import Desk
from budgateway.records import Settings
from budgateway.runtime import DataPlane, bound_socket

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Gateway:
    """`async with Gateway(settings) as gateway: gateway.url`.

    Serves on the running loop (uvloop or asyncio's own) until the block ends; exchanges in flight then get up to
    `drain_s` seconds of the settings. `port = 0` asks the system for a free one. Raises OSError when a port is taken.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._segment = native.Segment(1)
        self._desk: Desk | None = None
        self._plane: DataPlane | None = None
        self._port = 0
        self._draining = False

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        scheme = "http" if self.settings.tls is None else "https"
        host = self.settings.host
        if host in ("0.0.0.0", "::"):
            host = "127.0.0.1" if host == "0.0.0.0" else "::1"
        return f"{scheme}://[{host}]:{self._port}" if ":" in host else f"{scheme}://{host}:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen."""
        self._desk = Desk(self.settings, self._segment, lambda: not self._draining)
        try:
            await self._desk.open()
            self._plane = DataPlane(self.settings, self._segment, 0, self._desk.path)
            sock = bound_socket(self.settings.host, self.settings.port)
            self._port = sock.getsockname()[1]
            await self._plane.listen(sock)
        except BaseException:
            await self._shut()
            raise

    async def stop(self) -> None:
        """Drain and close. Idempotent."""
        self._draining = True
        if self._plane is not None:
            await self._plane.drain(self.settings.drain_s)
        await self._shut()

    async def _shut(self) -> None:
        if self._plane is not None:
            await self._plane.close()
        if self._desk is not None:
            await self._desk.close()
