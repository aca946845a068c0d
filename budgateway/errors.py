"""The error tree: one class for each failure, with its status, code, responsible party and retry policy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

Who = Literal["downstream", "upstream", "gateway", "operator"]
# never: the answer would be the same; next: another upstream may succeed; unsent: only while no byte of a response has
# reached the client.
Retry = Literal["never", "next", "unsent"]


class GatewayError(Exception):
    """The root. `str(error)` is lower case, names the thing and holds no secret; `hint` is advice for an operator."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    # OpenAI's `error.type`; adapters map it for other dialects.
    type: ClassVar[str] = "server_error"
    who: ClassVar[Who] = "gateway"
    retry: ClassVar[Retry] = "never"

    def __init__(self, message: str, *, hint: str = "", param: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.hint = hint
        self.param = param
        # Seconds until the same request may fit; 0 means unknown and sends no Retry-After.
        self.retry_after_s = retry_after_s
        # Complete header lines of the answer, each with its CRLF.
        self.lines = b""
        # Whether an upstream's failure counts for its breaker and ejection.
        self.blames = True


class BadRequest(GatewayError):
    """The request is malformed: framing, head or body."""

    status = 400
    code = "bad_request"
    type = "invalid_request_error"
    who = "downstream"


class RequestTimeout(BadRequest):
    """The head or body did not arrive in time."""

    status = 408
    code = "request_timeout"


class RequestTooLarge(BadRequest):
    """The body exceeds the limit of the gateway or the route."""

    status = 413
    code = "request_too_large"


class TargetTooLong(BadRequest):
    """The request target exceeds the line limit."""

    status = 414
    code = "target_too_long"


class UnsupportedCoding(BadRequest):
    """The body has a content coding that the gateway cannot decode, and the route depends on the content."""

    status = 415
    code = "unsupported_coding"

    def __init__(self, message: str, *, hint: str = "", param: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint, param=param, retry_after_s=retry_after_s)
        # RFC 7694 3: the supported codings.
        self.lines = b"accept-encoding: gzip, deflate, br, zstd\r\n"


class UnsupportedField(BadRequest):
    """The request asks something that the upstream's dialect has no form for."""

    code = "unsupported_field"


class NotTransformable(BadRequest):
    """A strict transformation rule applies, and the body is no JSON object that the gateway can edit."""

    code = "not_transformable"


class ExpectationFailed(BadRequest):
    """`Expect` asks for something other than 100-continue."""

    status = 417
    code = "expectation_failed"


class UpgradeRequired(BadRequest):
    """The route accepts only WebSocket (version 13), and the request is none."""

    status = 426
    code = "upgrade_required"


class HeadTooLarge(BadRequest):
    """The head exceeds its limit of bytes, line length or header count."""

    status = 431
    code = "head_too_large"


class Unauthenticated(GatewayError):
    """No credential, or one that does not verify; the same error for unknown, expired and foreign credentials."""

    status = 401
    code = "unauthenticated"
    type = "authentication_error"
    who = "downstream"


class Forbidden(GatewayError):
    """The principal is known and may not do this."""

    status = 403
    code = "forbidden"
    type = "permission_error"
    who = "downstream"


class OriginRefused(Forbidden):
    """A page of another origin sent the request, and the configuration does not allow it (CORS)."""

    code = "origin_not_allowed"


class KeysUnavailable(GatewayError):
    """The keys of a token's issuer have never been fetched, so the token cannot be verified."""

    status = 503
    code = "keys_unavailable"


class RouteNotFound(GatewayError):
    """No route matches host, path, headers."""

    status = 404
    code = "route_not_found"
    type = "invalid_request_error"
    who = "downstream"


class ModelNotFound(RouteNotFound):
    """Routes match the path, none the model."""

    code = "model_not_found"


class MethodNotAllowed(RouteNotFound):
    """Routes match the path, none the method."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: Iterable[str]) -> None:
        super().__init__(message)
        # RFC 9110 15.5.6: a 405 lists the allowed methods.
        self.lines = f"allow: {', '.join(allow)}\r\n".encode()


class RateLimited(GatewayError):
    """A limit is used up; `retry_after_s` is the time until the request would fit."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    who = "downstream"


class BudgetExceeded(RateLimited):
    """The budget of a period is spent; `retry_after_s` is the time until the next period."""

    code = "insufficient_quota"
    type = "insufficient_quota"

    def __init__(self, message: str, *, hint: str = "", param: str | None = None, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint, param=param, retry_after_s=retry_after_s)
        # The official clients retry 429; this one would fail for hours.
        self.lines = b"x-should-retry: false\r\n"


class Overloaded(GatewayError):
    """The gateway sheds load."""

    status = 503
    code = "overloaded"


class OutOfResources(GatewayError):
    """The gateway lacks descriptors, memory or local ports for a connection. Does not count against the upstream."""

    status = 503
    code = "out_of_resources"
    retry = "next"


class ResolverUnavailable(GatewayError):
    """No resolver answers, so an upstream's address is unknown. Does not count against the upstream."""

    status = 503
    code = "resolver_unavailable"
    retry = "next"


class Draining(GatewayError):
    """The gateway is shutting down, and the time for running exchanges is over."""

    status = 503
    code = "draining"


class UnderMaintenance(GatewayError):
    """The operator closed the route for maintenance."""

    status = 503
    code = "maintenance"


class NoUpstream(GatewayError):
    """Every upstream of the route is down, draining or already tried."""

    status = 503
    code = "no_upstream"


class StoreUnavailable(GatewayError):
    """Redis is unavailable: API keys in it can be neither read nor changed, and limits configured to fail closed admit
    nothing."""

    status = 503
    code = "store_unavailable"


class UpstreamConnectError(GatewayError):
    """An upstream could not be reached: name, connection or TLS."""

    status = 502
    code = "upstream_connect"
    who = "upstream"
    retry = "next"


class UpstreamProtocolError(GatewayError):
    """An upstream's answer is not HTTP, or ended early."""

    status = 502
    code = "upstream_protocol"
    who = "upstream"
    retry = "unsent"


class UpstreamError(GatewayError):
    """An upstream answered 200 without an answer: an empty one, or an error in disguise."""

    status = 502
    code = "upstream_error"
    who = "upstream"
    retry = "unsent"


class UpstreamTimeout(GatewayError):
    """An upstream was too slow in a phase: connect, first_byte, chunk or total."""

    status = 504
    code = "upstream_timeout"
    who = "upstream"
    retry = "unsent"

    def __init__(
        self, message: str, *, phase: Literal["connect", "first_byte", "chunk", "total"], hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.phase = phase


class DeadlineExceeded(GatewayError):
    """The time that the client allowed with `x-request-timeout` is over. Does not count against the upstream."""

    status = 504
    code = "deadline_exceeded"
    who = "downstream"


class ConfigError(GatewayError):
    """The configuration has problems; `problems` lists all of them, each with file and key path."""

    status = 422
    code = "config"
    type = "invalid_request_error"
    who = "operator"

    def __init__(
        self, problems: list[str], *, hint: str = "", files: Iterable[tuple[str, tuple[int, int, int]]] = ()
    ) -> None:
        """`files` are the files read, with their stamps at that time (`Settings.files`): one of them may be the
        cause."""
        super().__init__("\n".join(problems), hint=hint)
        self.problems = problems
        self.files = tuple(files)


class InternalError(GatewayError):
    """A bug in the gateway, confined to one exchange."""
