"""CORS by route: responses to preflights, and the header lines of errors without a route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from budgateway.errors import OriginRefused
from budgateway.records import METHODS
from budgateway.wire.cors import CrossOrigin, is_same_origin, origin_in
from budgateway.wire.date import date_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.native import RequestHead, RouteTable


class CrossOrigins:
    """The CORS policies of one configuration: each route's, and a common one for unrouted requests."""

    def __init__(self, table: RouteTable, policies: Sequence[CrossOrigin | None], common: CrossOrigin | None) -> None:
        """`policies` are in the order of the table's rules; `common` is the policy of `[cors]`."""
        self._table = table
        self._policies = tuple(policies)
        self._common = common
        self.is_on = common is not None or any(policies)
        # The header lines of a response when nothing is known about the client.
        self.plain = b"" if common is None else common.plain

    def options(self, head: RequestHead, request_id: str, close: bool) -> bytes:
        """The response to an OPTIONS request that the gateway answers itself: `*`, or a preflight. Raises OriginRefused
        when no policy allows the origin.

        A preflight has no body: of the routes that differ by model or headers, one that grants the request suffices.
        """
        method = head.header("access-control-request-method")
        origin = head.header("origin")
        if method is None or origin is None or head.path == "*":
            return self._about_server(origin, request_id, close)
        found = self._of(method, head)
        allowing = [policy for policy in found if policy is not None and policy.allows(origin)]
        if not allowing:
            raise self._refused(origin, head.path, found)
        policy = next((policy for policy in allowing if policy.grants(head)), allowing[0])
        return policy.preflight(head, request_id, close)

    def lines(self, head: RequestHead) -> bytes:
        """The CORS header lines of an error when the route is unknown."""
        if not self.is_on:
            return b""
        origin = head.header("origin")
        found = [policy for policy in self._of(head.method, head) if policy is not None]
        for policy in found:
            if origin is not None and policy.allows(origin):
                return policy.lines(origin)
        return found[0].plain if found else b""

    def malformed(self, data: bytes) -> bytes:
        """The CORS header lines for a malformed request; the origin is searched in the received bytes."""
        return b"" if self._common is None else self._common.lines(origin_in(data))

    def _of(self, method: str, head: RequestHead) -> list[CrossOrigin | None]:
        """The policies of all routes that match the request's method, path and host, whatever its model and headers."""
        rules = self._table.candidates(method, head.path, head.host)
        return [self._policies[rule] for rule in rules] if rules else [self._common]

    def _about_server(self, origin: str | None, request_id: str, close: bool) -> bytes:
        lines = b"" if self._common is None else self._common.lines(origin)
        end = "connection: close\r\n\r\n" if close else "\r\n"
        head = (
            f"HTTP/1.1 204 No Content\r\n{date_line()}\r\nallow: {', '.join(METHODS)}\r\nx-request-id: {request_id}\r\n"
        )
        return head.encode("ascii") + lines + end.encode("ascii")

    def _refused(self, origin: str, path: str, found: list[CrossOrigin | None]) -> OriginRefused:
        shown = ascii(origin[:256])
        if not any(found) and self._common is not None:
            key = "[cors] admin" if path.startswith(("/admin/", "/metrics")) else "the route's `cors`"
            return OriginRefused(f"pages of other origins may not use {path}: {key} does not let them")
        if not any(found):
            return OriginRefused(
                f"pages of other origins may not use this gateway: [cors] origins is empty, so {shown} is not allowed"
            )
        return OriginRefused(
            f"pages of {shown} may not use {path}: neither [cors] origins nor the route's `cors` names it"
        )


def check_handshake(policy: CrossOrigin, head: RequestHead, origin: str | None) -> None:
    """Raise OriginRefused for a WebSocket from a page whose origin is not allowed: browsers let any page open one
    (RFC 6455 10.2). Other clients send no Origin."""
    if origin is not None and not policy.allows(origin) and not is_same_origin(head, origin):
        raise OriginRefused(
            f"pages of {origin[:256]!a} may not open WebSockets here: neither [cors] origins nor the route's `cors` "
            "names it"
        )
