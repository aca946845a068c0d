"""The client of the admin API: over the unix socket of a gateway on this machine, or over HTTP with a token."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from budgateway.admin.instance import Instance, folder, instances, instances_in
from budgateway.errors import GatewayError

TIMEOUT_S = 60.0  # a reload waits for every worker


class Unreachable(GatewayError):
    """No gateway was found, or it did not answer."""

    code = "unreachable"
    who = "operator"


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("budgateway", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AdminClient:
    """A blocking client of one gateway's admin API."""

    def __init__(self, *, admin: str = "", url: str = "", token: str = "") -> None:
        """Take either `admin`, a socket's path, or `url` with a `token`."""
        self._admin_path = admin
        self._url = url
        self._token = token

    def call(self, method: str, path: str, document: Mapping[str, object] | None = None) -> tuple[int, Any]:
        """Send `document`, if any, and return status and JSON document. Raises Unreachable without an answer, or
        without JSON."""
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        connection = self._connection()
        try:
            if document is None:
                connection.request(method, path, headers=headers)
            else:
                headers["content-type"] = "application/json"
                connection.request(method, path, json.dumps(document).encode(), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"no answer from {self._url or self._admin_path}: {why.lower()}") from error
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        if self._admin_path:
            return _UnixConnection(self._admin_path)
        try:
            parts = urlsplit(self._url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:
            scheme, host, port = "", None, None
        if not host or scheme not in ("http", "https"):
            raise Unreachable(
                f"not a gateway's URL: {self._url}", hint="a gateway's URL is like http://host:8080 or https://host"
            )
        kind = HTTPSConnection if scheme == "https" else HTTPConnection
        return kind(host, port, timeout=TIMEOUT_S)


def local_gateway(port: int | None = None) -> Instance:
    """Return this user's only gateway on this machine, or the one on `port`. Gateways found through this process's
    environment come first; a draining one counts only when there is no other. Raises Unreachable when there is none, or
    several."""
    near = instances_in(folder())
    known = instances()
    serving = [instance for instance in known if not instance.draining]
    for candidates in ([instance for instance in near if not instance.draining], serving, known):
        found = [instance for instance in candidates if port is None or instance.port == port]
        if len(found) == 1:
            return found[0]
        if found:
            raise Unreachable(
                f"{len(found)} gateways run on this machine: {', '.join(instance.url for instance in found)}",
                hint="choose one with --port" if port is None else "--url and --token reach any of them",
            )
    where = f" on port {port}" if port is not None else ""
    raise Unreachable(
        f"no gateway that this user started runs{where} on this machine",
        hint="--url and --token reach a gateway of another user or machine",
    )
