"""The admin API: inspects and operates a running gateway."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl, unquote

from budgateway.admin.keys import PATH as KEYS
from budgateway.admin.keys import KeyOperations
from budgateway.admin.openapi import document
from budgateway.auth.delegation import Holder
from budgateway.auth.roles import Roles
from budgateway.config.difference import Difference, plain
from budgateway.errors import BadRequest, GatewayError, MethodNotAllowed, RouteNotFound

if TYPE_CHECKING:
    from budgateway.admin.health import Health
    from budgateway.admin.rates import Rates
    from budgateway.admin.usage import UsageReport
    from budgateway.credentials.refresher import CredentialRefresher
    from budgateway.observe.metrics import Reloads
    from budgateway.observe.tracing import Tracing
    from budgateway.records import Principal, Settings

PREFIX = "/admin"

Answer = tuple[int, Any]


class Operations(Protocol):
    """The supervisor's operations that the admin API uses."""

    settings: Settings
    started: float  # monotonic seconds
    refresher: CredentialRefresher
    tracing: Tracing
    reloads: Reloads

    async def reload(self) -> Difference: ...
    async def rollback(self) -> Difference: ...
    def restart_workers(self) -> int: ...
    def facts(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Request:
    """A call of the admin API. `name` is the part of the path that names an upstream."""

    method: str
    path: str
    body: bytes = b""
    name: str = ""
    query: str = ""

    def document(self) -> dict[str, Any]:
        """Return the body as a JSON object, empty without a body. Raises BadRequest for anything else."""
        if not self.body:
            return {}
        try:
            given = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise BadRequest("the body is not JSON") from error
        if not isinstance(given, dict):
            raise BadRequest("the body is not a JSON object")
        return given


class AdminApi:
    """Dispatches by path and method. Trusts its callers: workers have authorized the request, and the unix socket
    belongs to the operator."""

    def __init__(self, operations: Operations, health: Health, rates: Rates, version: str, usage: UsageReport) -> None:
        self._operations = operations
        self._health = health
        self._rates = rates
        self._version = version
        self._report = usage
        self._keys = KeyOperations(operations.refresher)
        self._handlers: dict[str, dict[str, Callable[[Request], Awaitable[Answer]]]] = {
            "/routes": {"GET": self._routes},
            "/stats": {"GET": self._stats},
            "/usage": {"GET": self._usage},
            "/requests": {"GET": self._requests},
            "/providers/health": {"GET": self._providers},
            "/config": {"GET": self._config},
            "/openapi.json": {"GET": self._openapi},
            "/reload-config": {"POST": self._reload},
            "/rollback-config": {"POST": self._rollback},
            "/restart-workers": {"POST": self._restart},
            "/upstreams/drain": {"POST": self._drain},
            "/upstreams/undrain": {"POST": self._undrain},
        }

    async def answer(
        self,
        method: str,
        path: str,
        body: bytes | None,
        query: str = "",
        asker: Principal | None = None,
        until: float = inf,
    ) -> Answer:
        """Return status and JSON document for a request of `asker`, whose credential expires at `until`; None is the
        operator of this machine. Raises GatewayError."""
        operation = path.removeprefix(PREFIX)
        name = ""
        if operation.startswith("/upstreams/") and operation.endswith(("/drain", "/undrain")):
            name = unquote(operation.removeprefix("/upstreams/").rpartition("/")[0])
            operation = "/upstreams" + operation[operation.rindex("/") :]
        if operation == KEYS or operation.startswith(KEYS + "/"):
            holder = None if asker is None else Holder(asker, until, Roles(self._operations.settings.auth))
            return await self._keys.answer(method, operation, Request(method, path, body or b"").document(), holder)
        handlers = self._handlers.get(operation)
        if handlers is None:
            raise RouteNotFound(f"no operation {path}", hint="GET /admin/openapi.json lists the operations")
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            raise MethodNotAllowed(f"{path} takes {', '.join(handlers)}", allow=handlers)
        return await handler(Request(method, path, body or b"", name, query))

    # ---------------------------------------------------------------- reads

    async def _routes(self, request: Request) -> Answer:
        settings = self._operations.settings
        return 200, {"routes": [plain(route) for route in settings.routes]}

    async def _stats(self, request: Request) -> Answer:
        workers = self._operations.facts()
        return 200, {
            "version": self._version,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._operations.started, 1),
            "rss_bytes": sum(worker["rss_bytes"] for worker in workers),
            "connections": sum(worker["connections"] for worker in workers),
            "in_flight": sum(worker["in_flight"] for worker in workers),
            "workers": workers,
            **self._rates.document(),
            "upstreams": self._health.upstreams(),
            "queues": self._health.queues(),
        }

    async def _usage(self, request: Request) -> Answer:
        return 200, self._report.document(dict(parse_qsl(request.query, keep_blank_values=True)))

    async def _requests(self, request: Request) -> Answer:
        wanted = dict(parse_qsl(request.query, keep_blank_values=True))
        if unknown := wanted.keys() - {"id"}:
            raise BadRequest(f"unknown parameter {sorted(unknown)[0]!r}: there is id")
        return 200, {"requests": self._operations.tracing.requests(wanted.get("id", ""))}

    async def _providers(self, request: Request) -> Answer:
        return 200, {"providers": self._health.providers()}

    async def _config(self, request: Request) -> Answer:
        settings = plain(self._operations.settings)
        sources = settings.pop("sources")
        origins = dict(settings.pop("origins"))
        return 200, {"config": settings, "files_and_variables": sources, "set_by": origins}

    async def _openapi(self, request: Request) -> Answer:
        return 200, document(self._version)

    # ---------------------------------------------------------------- actions

    async def _reload(self, request: Request) -> Answer:
        request.document()
        return 200, {"status": "reloaded", **(await self._operations.reload()).document()}

    async def _rollback(self, request: Request) -> Answer:
        request.document()
        return 200, {"status": "rolled back", **(await self._operations.rollback()).document()}

    async def _restart(self, request: Request) -> Answer:
        request.document()
        return 202, {"status": "restarting", "workers": self._operations.restart_workers()}

    async def _drain(self, request: Request) -> Answer:
        return 200, self._switched(request.name, True)

    async def _undrain(self, request: Request) -> Answer:
        return 200, self._switched(request.name, False)

    def _switched(self, name: str, drained: bool) -> Any:
        found = self._health.drain(name, drained)
        if not found:
            raise UpstreamUnknown(f"no upstream '{name}'", hint="GET /admin/providers/health lists the upstreams")
        return {"upstreams": found}


class UpstreamUnknown(GatewayError):
    """The name is neither an upstream's label nor a provider's."""

    status = 404
    code = "upstream_unknown"
    type = "invalid_request_error"
    who = "downstream"
