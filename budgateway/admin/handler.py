"""The admin server's request handler: probes, metrics, the model list and the admin API."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from budgateway.admin.bounds import Bounds
from budgateway.admin.models import anthropic_list, anthropic_model
from budgateway.auth.principal_header import read_principal, read_principal_until
from budgateway.errors import ConfigError, GatewayError, InternalError, ModelNotFound, RateLimited, RouteNotFound
from budgateway.exchange.exchange_cy import Exchange
from budgateway.exchange.handler_cy import ExchangeHandler
from budgateway.observe.metrics import CONTENT_TYPE
from budgateway.wire.date import date_line
from budgateway.wire.error_response import body_bytes, error_document, response_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from budgateway.admin.api import AdminApi, Answer
    from budgateway.admin.models import ModelCatalogue
    from budgateway.admin.scrapes import Scrapes
    from budgateway.auth.roles import Visibility
    from budgateway.server.connection_cy import ServerConnection

# Also served on the metrics listener, which has no authentication.
_PUBLIC = ("/metrics", "/health", "/livez", "/readyz")
# The metrics listener's limits for one address: scrapes and probes never reach them.
PER_MINUTE, BURST = 6_000, 2_000

_log = logging.getLogger("budgateway.office")


class AdminHandler(ExchangeHandler):
    """The handler of the gateway's own endpoints. It trusts its callers, which workers have authorized; with
    `public_only` it serves the unauthenticated metrics listener."""

    def __init__(
        self,
        *,
        scrapes: Scrapes,
        catalogue: ModelCatalogue,
        visibility: Visibility,
        api: AdminApi | None,
        ready: Callable[[], bool],
        without: Callable[[float], list[str]] = lambda now_s: [],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        version: str,
        public_only: bool = False,
    ) -> None:
        self._scrapes = scrapes
        self.catalogue = catalogue
        self.visibility = visibility
        self._api = api
        self._ready = ready
        # the names of routes that no upstream serves
        self._without = without
        self._spawn = spawn
        self._version = version
        self._public_only = public_only
        # The workers enforce limits of their own.
        self._bounds = Bounds(PER_MINUTE, BURST) if public_only else None
        self._work: set[asyncio.Future[Answer]] = set()

    # ---------------------------------------------------------------- handler of server connections

    def start(self, x: Exchange) -> None:
        """Answer immediately, or in a task for metrics, the model list and the admin API."""
        path = x.head.path
        wait_ns = 0 if self._bounds is None else self._bounds.admit(x.network, x.started_ns)
        if wait_ns:
            self.fail(x, RateLimited("too many requests from this address", retry_after_s=wait_ns / 1e9))
        elif self._public_only and path not in _PUBLIC:
            self.fail(x, RouteNotFound(f"no route for {path}"))
        elif path == "/metrics":
            x.task = self._spawn(self._metrics(x))
        elif path in ("/health", "/readyz"):
            self._answer_ready(x)
        elif path == "/livez":
            self._answer_json(x, 200, {"status": "ok"})
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            x.task = self._spawn(self._models(x, unquote(path.removeprefix("/v1/models").removeprefix("/"))))
        elif self._api is not None and path.startswith("/admin/"):
            x.task = self._spawn(self._admin(x, self._api))
        else:
            self.fail(x, RouteNotFound(f"no route for {path}"))

    def body(self, x: Exchange, data: bytes) -> None:
        """Ignore streamed body data: the admin API takes JSON, which is whole in `x.body`."""

    def body_end(self, x: Exchange) -> None:
        """Do nothing: no streamed body is read."""

    def gone(self, x: Exchange) -> None:
        """Cancel the exchange's task: the client has disconnected."""
        x.closed = True
        if x.task is not None:
            x.task.cancel()

    def writable(self, x: Exchange, ok: bool) -> None:
        """Do nothing: answers are small and written whole."""

    def sweep(self, x: Exchange, now_ns: int) -> None:
        """Do nothing: every answer has its own deadline."""

    def fail(self, x: Exchange, error: GatewayError) -> None:
        """Answer with an error."""
        if x.closed:
            return
        if isinstance(error, ConfigError):
            document = error_document(error, x.head.request_id or "-", x.dialect)
            document["error"]["problems"] = error.problems
            self._answer_json(x, error.status, document)
            return
        x.closed = True
        keep_alive = x.body_done
        request_id = x.head.request_id or "-"
        x.downstream.write(response_bytes(error, request_id, body_bytes(error, request_id, x.dialect), not keep_alive))
        x.downstream.finish(keep_alive)

    def crashed(self, x: Exchange, error: Exception) -> None:
        """Log an internal error; only this request fails."""
        _log.error("%s %s failed", x.head.method, x.head.path, exc_info=error)
        if x.closed:
            x.downstream.abort()
        else:
            self.fail(x, InternalError(f"internal error ({type(error).__name__})"))

    def refuse_malformed(self, connection: ServerConnection, error: GatewayError, data: bytes, dialect: int) -> None:
        """Answer a malformed request, which never became an exchange."""
        connection.write(response_bytes(error, "-", body_bytes(error, "-", dialect), True))

    # ---------------------------------------------------------------- answers

    async def _metrics(self, x: Exchange) -> None:
        try:
            text = await self._scrapes.text()
        except Exception as error:  # noqa: BLE001 - a background task's edge
            _log.exception("the metrics failed")
            self.fail(x, InternalError(f"internal error ({type(error).__name__})"))
            return
        if not x.closed:
            self._answer(x, 200, text, CONTENT_TYPE)

    async def _models(self, x: Exchange, name: str) -> None:
        try:
            models = await self.catalogue.models()
        except Exception as error:  # noqa: BLE001 - a background task's edge
            _log.exception("the model list failed")
            self.fail(x, InternalError(f"internal error ({type(error).__name__})"))
            return
        if x.closed:
            return
        asker = read_principal(x.head.headers())
        models = [model for model in models if self.visibility.shows(asker, model["owned_by"], model["id"])]
        is_anthropic = x.head.header("anthropic-version") is not None
        if not name:
            listed = anthropic_list(models) if is_anthropic else {"object": "list", "data": models}
            self._answer_json(x, 200, listed)
            return
        for model in models:
            if model["id"] == name:
                self._answer_json(x, 200, anthropic_model(model) if is_anthropic else model)
                return
        self.fail(x, ModelNotFound(f"no model '{name}'", param="model"))

    async def _admin(self, x: Exchange, api: AdminApi) -> None:
        asker, until = read_principal_until(x.head.headers())
        if x.head.method not in ("GET", "HEAD"):
            _log.info("%s %s by %s", x.head.method, x.head.path, "the admin socket" if asker is None else asker.id)
        # Shielded from a client that leaves: half a reload would be worse than one that nobody waits for.
        work = asyncio.ensure_future(api.answer(x.head.method, x.head.path, x.body, x.head.query, asker, until))
        self._work.add(work)
        work.add_done_callback(self._worked)
        try:
            status, document = await asyncio.shield(work)
        except GatewayError as error:
            self.fail(x, error)
        except Exception as error:  # noqa: BLE001 - a background task's edge
            _log.exception("%s %s failed", x.head.method, x.head.path)
            self.fail(x, InternalError(f"internal error ({type(error).__name__})"))
        else:
            if not x.closed:
                self._answer_json(x, status, document)

    def _worked(self, work: asyncio.Future[Answer]) -> None:
        self._work.discard(work)
        if not work.cancelled():
            work.exception()  # marks it as retrieved: its waiter may be gone

    def _answer_ready(self, x: Exchange) -> None:
        """Answer whether the gateway accepts requests. Upstreams do not count, because a gateway that answers 503 with
        a reason is more useful than none; the query `?upstreams` includes them."""
        ready = self._ready()
        document: dict[str, Any] = {"status": "ok" if ready else "draining", "version": self._version}
        without = self._without(time.monotonic())
        if without:
            document["routes_without_upstream"] = len(without)  # the count only: the names are not public
        if ready and without and x.head.query == "upstreams":
            ready = False
            document["status"] = "no_upstream"
        self._answer_json(x, 200 if ready else 503, document)

    def _answer_json(self, x: Exchange, status: int, document: object) -> None:
        self._answer(x, status, json.dumps(document).encode(), "application/json")

    def _answer(self, x: Exchange, status: int, body: bytes, content_type: str) -> None:
        x.closed = True
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{date_line()}\r\ncontent-type: {content_type}\r\n"
            f"content-length: {len(body)}\r\ncache-control: no-store\r\n\r\n"
        )
        x.downstream.write(head.encode("ascii") if x.is_head else head.encode("ascii") + body)
        x.downstream.finish(x.body_done)
