"""`/admin/keys`: lists and changes API keys over HTTP. Only the answer that creates a secret contains it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from budgateway.credentials import api_keys
from budgateway.errors import BadRequest, MethodNotAllowed, RouteNotFound

if TYPE_CHECKING:
    from budgateway.auth.delegation import Holder
    from budgateway.credentials.api_keys import Changed, Keys
    from budgateway.credentials.refresher import CredentialRefresher

PATH = "/keys"


class KeyOperations:
    """The operations on API keys, by method and path."""

    def __init__(self, refresher: CredentialRefresher) -> None:
        self._refresher = refresher

    async def answer(
        self, method: str, operation: str, given: Mapping[str, Any], holder: Holder | None
    ) -> tuple[int, Any]:
        """Return status and document for a request. `operation` is the path after `/admin`; a `holder` cannot grant
        more than it has. Raises GatewayError."""
        name, _, verb = operation.removeprefix(PATH).removeprefix("/").partition("/")
        name = unquote(name)
        if not name:
            return await self._all(method, given, holder)
        if verb:
            return await self._one(method, name, verb, given, holder)
        now = time.time()
        if method in ("GET", "HEAD"):
            return 200, api_keys.shown(api_keys.named(await self._refresher.keys(), name), now)
        if method == "PATCH":
            return await self._changed(200, partial(api_keys.update, name=name, wishes=given, now=now), holder)
        if method == "DELETE":
            return await self._changed(200, partial(api_keys.delete, name=name))
        raise MethodNotAllowed("/admin/keys/{name} takes GET, PATCH, DELETE", allow=("GET", "PATCH", "DELETE"))

    async def _all(self, method: str, given: Mapping[str, Any], holder: Holder | None) -> tuple[int, Any]:
        now = time.time()
        if method in ("GET", "HEAD"):
            return 200, {"keys": [api_keys.shown(key, now) for key in await self._refresher.keys()]}
        if method != "POST":
            raise MethodNotAllowed("/admin/keys takes GET, POST", allow=("GET", "POST"))
        wishes = dict(given)
        name = wishes.pop("name", None)
        if not isinstance(name, str):
            raise BadRequest("a key needs a name", param="name")
        complete = wishes if holder is None else holder.completed(wishes)
        return await self._changed(201, partial(api_keys.create, name=name, wishes=complete, now=now), holder)

    async def _one(
        self, method: str, name: str, verb: str, given: Mapping[str, Any], holder: Holder | None
    ) -> tuple[int, Any]:
        wishes = dict(given)
        grace = wishes.pop("grace_s", 0) if verb == "rotate" else 0
        if wishes:
            raise BadRequest(f"{verb} takes no '{next(iter(wishes))[:64]}'")
        if isinstance(grace, bool) or not isinstance(grace, int | float):
            raise BadRequest("grace_s must be a number of seconds", param="grace_s")
        edits: dict[str, Callable[[Keys], Changed]] = {
            "rotate": partial(api_keys.rotate, name=name, grace_s=grace, now=time.time()),
            "disable": partial(api_keys.switch, name=name, disabled=True),
            "enable": partial(api_keys.switch, name=name, disabled=False),
        }
        if verb not in edits:
            raise RouteNotFound(
                f"no operation '{verb[:64]}' of a key", hint="GET /admin/openapi.json lists the operations"
            )
        if method != "POST":
            raise MethodNotAllowed(f"/admin/keys/{{name}}/{verb} takes POST", allow=("POST",))
        # Disabling only takes from a key, so any holder may do it; the other operations grant the key, or a secret of
        # it.
        return await self._changed(200, edits[verb], None if verb == "disable" else holder)

    async def _changed(
        self, status: int, edit: Callable[[Keys], Changed], holder: Holder | None = None
    ) -> tuple[int, Any]:
        def checked(keys: Keys) -> Changed:
            changed = edit(keys)
            if holder is not None:
                holder.check(changed.key)
            return changed

        changed = await self._refresher.change(checked)
        document = api_keys.shown(changed.key, time.time())
        return status, {**document, "secret": changed.secret} if changed.secret else document
