"""The gateway embedded in a Python program: one worker and its admin server on the running loop."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from budgateway import native
from budgateway.admin.server import AdminServer
from budgateway.app.dataplane import DataPlane, bound_socket
from budgateway.credentials.refresher import CredentialRefresher
from budgateway.errors import ConfigError
from budgateway.limits.keeping import StateFile
from budgateway.observe.metrics import Reloads
from budgateway.observe.tracing import Tracing
from budgateway.process.memory import resident
from budgateway.records import Settings

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from budgateway.auth.credential_store import CredentialSet
    from budgateway.config.difference import Difference


class Gateway:
    """`async with Gateway(settings) as gateway: gateway.url`.

    Serves on the running loop (uvloop or asyncio's own) until the block ends; exchanges in flight then get up to the
    settings' `drain_s` seconds. `port = 0` picks a free port. Raises OSError when a port is taken.
    """

    def __init__(self, settings: Settings | str | os.PathLike[str]) -> None:
        """`settings`, or the path of a configuration: a file or a directory, read at once (raises ConfigError with
        every problem)."""
        if isinstance(settings, (str, os.PathLike)):
            from budgateway.config.load import load_config

            settings = load_config(os.fspath(settings))
        elif not isinstance(settings, Settings):
            raise TypeError(f"Gateway takes Settings or the path of a configuration, not {type(settings).__name__}")
        self.settings = settings
        self._segment = native.Segment(1)
        self._kept = StateFile(settings.limits.state_file, self._segment)
        self._keeping: asyncio.Task[None] | None = None
        self.tracing = Tracing(settings)
        self.reloads = Reloads()
        self.refresher = CredentialRefresher(settings, self._update_credentials)
        self._admin_server: AdminServer | None = None
        self._plane: DataPlane | None = None
        self._port = 0
        self._draining = False
        self.started = time.monotonic()

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
        """Start listening. Raises OSError when a port is taken."""
        self._admin_server = AdminServer(self.settings, self._segment, lambda: not self._draining, self)
        try:
            await self._admin_server.open()
            await self.refresher.open(self.settings)
            await asyncio.to_thread(self._kept.load)
            self._plane = DataPlane(
                self.settings, self._segment, 0, self._admin_server.path, credentials=self.refresher.credentials
            )
            self._plane.credential_store.ask = self._on_wanted
            self._plane.on_spans = self.tracing.take
            sock = bound_socket(self.settings.host, self.settings.port)
            self._port = sock.getsockname()[1]
            await self._plane.listen(sock)
            self._keeping = asyncio.create_task(self._kept.run(), name="limits")
        except BaseException:
            await self._shut()
            raise

    async def stop(self) -> None:
        """Drain and close. Idempotent."""
        self._draining = True
        if self._plane is not None:
            await self._plane.drain(self.settings.drain_s)
        await self._shut()

    def reopen_access_log(self) -> None:
        """Open a new access log after the old file was renamed. This also happens automatically within a second of the
        next line."""
        if self._plane is not None:
            self._plane.reopen()

    # ---------------------------------------------------------------- for the admin endpoints

    async def reload(self) -> Difference:
        """Raises ConfigError: a program passes its settings itself, so there is nothing to read again."""
        raise ConfigError(["this gateway got its settings from a program: there is no file to reload"])

    async def rollback(self) -> Difference:
        """Raises ConfigError, like `reload`."""
        raise ConfigError(["this gateway got its settings from a program: there is no earlier configuration"])

    def restart_workers(self) -> int:
        """Raises ConfigError: the only worker is the program itself."""
        raise ConfigError(["this gateway runs inside a program: there are no workers to restart"])

    def facts(self) -> list[dict[str, Any]]:
        """Return the state of the only worker."""
        return [
            {
                "worker": 0,
                "pid": os.getpid(),
                "row": 0,
                "state": "draining" if self._draining else "ready",
                "uptime_s": round(time.monotonic() - self.started, 1),
                "rss_bytes": resident(os.getpid()),
                "shedding": "" if self._plane is None else self._plane.relay.shedding,
                "accepts": True,
                "restarts": 0,
                "hung": 0,
                "access_lines_lost": self._segment.gauge(0, native.GAUGE_LINES_LOST),
                "connections": self._segment.gauge(0, native.GAUGE_CONNECTIONS),
                "in_flight": self._segment.gauge(0, native.GAUGE_EXCHANGES),
            }
        ]

    async def _update_credentials(self, credentials: CredentialSet) -> None:
        if self._plane is not None:
            self._plane.update_credentials(credentials)

    def _on_wanted(self, issuer: str) -> None:
        if self._plane is not None:
            self._plane.spawn(self._refresh(self._plane, issuer))

    async def _refresh(self, plane: DataPlane, issuer: str) -> None:
        await self.refresher.wanted(issuer)
        plane.credential_store.refreshed(issuer)

    async def _shut(self) -> None:
        await self.refresher.close()
        if self._plane is not None:
            await self._plane.close()
        await asyncio.to_thread(self.tracing.close)
        if self._keeping is not None:
            # Only after it has served: a failed start leaves the file as it is.
            keeping, self._keeping = self._keeping, None
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await asyncio.to_thread(self._kept.save)
        if self._admin_server is not None:
            await self._admin_server.close()
