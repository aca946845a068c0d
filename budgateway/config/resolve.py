"""Conversion of tables to records: follows references, fills in defaults, checks tables against each other."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from budgateway.config import environment
from budgateway.config.endpoint import parse_endpoint
from budgateway.config.problems import Problems, did_you_mean, is_text, shown
from budgateway.config.resolve_cors import route_cors
from budgateway.config.resolve_health import health_check_of
from budgateway.config.resolve_shaping import shaping
from budgateway.config.schema import GatewayConfig, ProviderConfig, RouteConfig
from budgateway.config.schema_cors import CorsConfig
from budgateway.config.source import KeyPath, Source
from budgateway.config.types import FIELD_VALUE, OWN_HEADERS, SECRET_HEADERS, secret_reference
from budgateway.kinds import KINDS
from budgateway.records import (
    INFERENCE_PATHS,
    MAX_FILL_S,
    Fallback,
    Hedge,
    Provider,
    Retries,
    Route,
    Secret,
    Timeouts,
    Tls,
    TranslationSettings,
    Upstream,
)
from budgateway.system.pem import Pem, load_pair, read_pem, trusting

# RFC 7518 3.2: an HS256 key is at least as long as the hash.
MIN_SECRET_BYTES = 32
ACCESS_LOGS = ("stdout", "stderr", "off")
MAX_SECRET_BYTES = 64 * 1024
MAX_WORKERS = 32  # half of the segment's rows: a worker and its replacement need one each


class Resolver:
    """Turns validated tables into records. Notes every problem and continues; None means that a problem was noted."""

    def __init__(self, problems: Problems, environ: Mapping[str, str], source: Source) -> None:
        self.problems = problems
        self._environ = environ
        self._folder = source.folder_of  # the directory where a key's relative path starts
        self._look_at = source.look_at  # called with each file the configuration refers to, before it is read
        self.cors: CorsConfig | None = None  # a route's own settings override these
        self.burst: int | None = None  # `[rate_limiting] burst_capacity`: for routes without their own
        self._pems: dict[str, Pem] = {}

    def secret(self, path: KeyPath, reference: str) -> Secret | None:
        """Return the secret behind `env:NAME` or `file:PATH`."""
        where, _, name = reference.partition(":")
        if where == "env":
            value = self._environ.get(name, "")
            if not value:
                self.problems.add(path, f"the variable {name} is not set")
                return None
            if not is_text(value):
                self.problems.add(path, f"the variable {name} is not UTF-8 text")
                return None
        else:
            file = self._named(path, name)
            self._look_at(file)
            try:
                with file.open("rb") as stream:
                    value = stream.read(MAX_SECRET_BYTES + 1).decode().rstrip("\r\n")
            except (OSError, ValueError) as error:
                self.problems.add(path, f"cannot read {shown(name)}: {_reason(error)}")
                return None
            if not value or len(value) > MAX_SECRET_BYTES:
                self.problems.add(path, f"{shown(name)} is {'too large for a secret' if value else 'empty'}")
                return None
        return Secret(value)

    def jwt_secret(self, reference: str | None) -> Secret | None:
        """Return the secret that signs tokens."""
        path: KeyPath = ("auth", "jwt_secret")
        secret = self.secret(path, reference) if reference else None
        if secret is not None and (length := len(secret.reveal().encode())) < MIN_SECRET_BYTES:
            self.problems.add(
                path, f"too short: {length} bytes, must be at least {MIN_SECRET_BYTES} (openssl rand -hex 32)"
            )
        return secret

    def beside(self, path: KeyPath, name: str) -> Path:
        """Return the absolute path of a name that was written at `path`, with symbolic links resolved."""
        return (self._folder(path) / name).resolve()

    def _named(self, path: KeyPath, name: str) -> Path:
        """Return the absolute path without resolving links: they may change (renewed certificates and secrets)."""
        return Path(os.path.abspath(self._folder(path) / name))  # noqa: PTH100 - Path.resolve() follows links

    def file(self, path: KeyPath, name: str) -> str:
        """Return the absolute path of a file; note a problem when it is not readable."""
        file = self._named(path, name)
        self._look_at(file)
        try:
            with file.open("rb"):
                pass
        except (OSError, ValueError) as error:
            self.problems.add(path, f"cannot read {shown(name)}: {_reason(error)}")
        return str(file)

    def access_log(self, target: str) -> str:
        """Return the target of access lines: one of the words, or the absolute path of a file in an existing
        directory."""
        path: KeyPath = ("gateway", "access_log")
        if target in ACCESS_LOGS:
            return target
        if "/" not in target and "." not in target:
            words = ", ".join(ACCESS_LOGS)
            suggestion = did_you_mean(target, ACCESS_LOGS)
            self.problems.add(
                path, f"must be {words} or a file's path such as ./access.log, got {shown(target)}{suggestion}"
            )
            return target
        file = (self._folder(path) / target).resolve()
        if not file.parent.is_dir():
            self.problems.add(path, f"there is no folder {shown(str(file.parent))}")
        return str(file)

    def tls(self, cert_name: str, key_name: str) -> Tls:
        """Return the listener's certificate; note a problem when the key does not match it."""
        cert_file, key_file = self.file(("tls", "cert_file"), cert_name), self.file(("tls", "key_file"), key_name)
        cert, key = self.pem(cert_file), self.pem(key_file)
        if cert is not None and key is not None:
            try:
                load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
            except (ssl.SSLError, OSError, ValueError) as error:
                self.problems.add(("tls",), f"cert_file and key_file are not a pair of PEM files: {_reason(error)}")
        return Tls(cert_file, key_file, cert, key)

    def provider(self, name: str, table: ProviderConfig, gateway: GatewayConfig, routed: Sequence[str]) -> Provider:
        """Build one provider. `routed` are the model patterns of the routes that lead to it."""
        here: KeyPath = ("providers", name)
        upstreams = self._upstreams(here, name, table)
        strip = table.strip_model_prefix
        if strip is None:
            strip = f"{name}/" if any(pattern.startswith(f"{name}/") for pattern in routed) else ""
        for index, header in enumerate(table.forward_headers):
            if header in OWN_HEADERS or header in SECRET_HEADERS or "forwarded" in header:
                self.problems.add(
                    (*here, "forward_headers", index), f"{shown(header)} is never passed on to an upstream"
                )
        kind = self._kind(here, name, table)
        return Provider(
            name=name,
            kind=kind,
            upstreams=upstreams,
            label=table.name or "",
            api_key=self._api_key(here, name, table, upstreams),
            headers=self._headers(here, table),
            forward_headers=tuple(table.forward_headers),
            models=tuple(table.models),
            aliases=tuple(table.aliases.items()),
            strip_prefix=table.strip_prefix,
            strip_model_prefix=strip,
            # A compressed answer passes unread, so usage added to it could not be removed for the client.
            stream_usage=table.stream_usage and not is_compressed(table),
            api_version=(api_version := table.api_version or KINDS[kind].api_version),
            health_check=health_check_of(kind, table, api_version),
            slow_start_s=table.slow_start,
            connect_timeout_s=table.connect_timeout or gateway.connect_timeout,
            keepalive_s=table.keepalive_timeout,
            max_idle=table.max_idle_connections,
            max_queue=table.max_queue,
            queue_timeout_s=table.queue_timeout,
            hold_bytes=table.hold_bytes,
            first_event_s=table.first_event_timeout or 0.0,
            forward_trace=table.forward_trace,
            dialects=tuple(table.dialects),
            translation=TranslationSettings(
                lossy=table.lossy,
                default_max_tokens=table.default_max_tokens,
                token_limit_field=table.token_limit_field or "",
                reasoning_field=table.reasoning_field,
                replay_reasoning=table.replay_reasoning,
                inline_system=table.inline_system or "",
                tool_images=table.tool_images,
            ),
            tls_verify=table.tls_verify,
            tls_ca_file=(ca_file := self.authorities((*here, "tls_ca_file"), table.tls_ca_file)),
            tls_ca=self.pem(ca_file),
        )

    def _kind(self, here: KeyPath, name: str, table: ProviderConfig) -> str:
        if table.kind is not None:
            return table.kind
        if name not in KINDS:
            self.problems.add(
                (*here, "kind"),
                f"is required, because {shown(name)} is none of {', '.join(KINDS)}"
                f'{did_you_mean(name, KINDS)} (kind = "openai" for any server with an OpenAI API)',
            )
        return name if name in KINDS else "openai"

    def _upstreams(self, here: KeyPath, name: str, table: ProviderConfig) -> tuple[Upstream, ...]:
        bound = table.max_in_flight
        given = [
            (entry.url, entry.weight, bound if entry.max_in_flight is None else entry.max_in_flight)
            for entry in table.endpoints
        ]
        base_url = KINDS[name].base_url if name in KINDS and table.kind in (None, name) else ""
        if not given and "endpoints" not in table.model_fields_set and base_url:
            given = [(base_url, 1, bound)]
        if not given and not self.problems.within((*here, "endpoints")):
            variable = environment.ENDPOINTS.get(name)
            self.problems.add((*here, "endpoints"), f"is required{f', or set {variable}' if variable else ''}")
        seen: dict[str, Upstream] = {}
        for index, (url, weight, max_in_flight) in enumerate(given):
            path = (*here, "endpoints", index, "url")
            upstream = parse_endpoint(url, weight=weight, max_in_flight=max_in_flight)
            if upstream.url in seen:
                self.problems.add(path, f"{upstream.url!r} is already an endpoint of this provider; use weight")
            seen[upstream.url] = upstream
        return tuple(seen.values())

    def _api_key(self, here: KeyPath, name: str, table: ProviderConfig, upstreams: Sequence[Upstream]) -> Secret | None:
        path = (*here, "api_key")
        kind = KINDS[table.kind or (name if name in KINDS else "openai")]
        hosted = next((one for one, host in environment.HOSTS.items() if any(host == at.host for at in upstreams)), "")
        variable = environment.KEYS.get(name, "")
        secret: Secret | None = None
        if table.api_key is not None:
            if kind.key_header in table.headers:
                self.problems.add(path, f"headers.{kind.key_header} is set as well: only one of the two can be sent")
            secret = self.secret(path, table.api_key)
        elif kind.key_header in table.headers:
            return None
        # OPENAI_API_KEY and its like are often set for other programs: by default they are sent only to their hosts.
        elif self._environ.get(variable) and (hosted == name or name not in environment.HOSTS):
            secret = Secret(self._environ[variable])
            path = (*here, f"api_key ({variable})")
        elif hosted:
            self.problems.add(
                path,
                f'{environment.HOSTS[hosted]} needs a key: set {environment.KEYS[hosted]}, or write api_key = "env:NAME"',
            )
        if secret is not None and not FIELD_VALUE.fullmatch(secret.reveal()):
            self.problems.add(
                path, "the secret holds characters that no header can carry (a line break, or a space around it?)"
            )
        return secret

    def _headers(self, here: KeyPath, table: ProviderConfig) -> tuple[tuple[str, Secret], ...]:
        headers: list[tuple[str, Secret]] = []
        for name, text in table.headers.items():
            path = (*here, "headers", name)
            is_secret = name in SECRET_HEADERS or name.endswith(("-key", "-token", "-secret"))
            value: Secret | None = Secret(text)
            if name in OWN_HEADERS:
                self.problems.add(path, "the gateway writes this header itself")
            elif is_secret or text.startswith(("env:", "file:")):
                try:
                    secret_reference(text)
                except ValueError as error:
                    self.problems.add(path, str(error))
                    continue
                value = self.secret(path, text)
            if value is not None and not FIELD_VALUE.fullmatch(value.reveal()):
                self.problems.add(path, "holds characters that no header can carry")
            elif value is not None:
                headers.append((name, value))
        return tuple(headers)

    def authorities(self, path: KeyPath, name: str | None) -> str:
        """Return the absolute path of a file with certificates; empty for none."""
        if name is None:
            return ""
        file = self.file(path, name)
        if (authorities := self.pem(file)) is not None:
            try:
                trusting(authorities)
            except (ssl.SSLError, OSError) as error:
                self.problems.add(path, f"{shown(name)} holds no PEM certificates: {_reason(error)}")
        return file

    def pem(self, file: str) -> Pem | None:
        """Return a file's contents, cached from the first read; None without a file, and for an unreadable one, which
        `file` has reported."""
        if file and file not in self._pems:
            try:
                self._pems[file] = read_pem(file)
            except (OSError, ValueError):
                return None
        return self._pems.get(file)

    def route(
        self, index: int, name: str, table: RouteConfig, gateway: GatewayConfig, provider: ProviderConfig | None
    ) -> Route:
        """Build one route with the given name."""
        here: KeyPath = ("routes", index)
        first_byte = table.timeout or table.first_byte_timeout
        if table.timeout and table.first_byte_timeout and table.timeout != table.first_byte_timeout:
            self.problems.add((*here, "first_byte_timeout"), "timeout is another name for the same deadline: keep one")
        if table.burst_capacity and not table.rate_limit:
            self.problems.add((*here, "burst_capacity"), "has no effect without rate_limit")
        elif table.burst_capacity and table.rate_limit and table.burst_capacity * 60 / table.rate_limit > MAX_FILL_S:
            self.problems.add((*here, "burst_capacity"), "is too large for rate_limit: it would take decades to fill")
        connect = table.connect_timeout or (provider.connect_timeout if provider else None) or gateway.connect_timeout
        literal = table.path in INFERENCE_PATHS
        return Route(
            name=name,
            path=table.path,
            host=(table.host or "").lower(),
            methods=methods_of(table),
            models=tuple(dict.fromkeys(table.models)),
            headers=tuple(table.headers.items()),
            priority=table.priority,
            load_balancer=table.load_balancer,
            rate_limit=table.rate_limit or 0,
            rate_burst=self._burst(table.rate_limit, table.burst_capacity) if table.rate_limit else 0,
            auth_required=table.auth_required,
            timeouts=Timeouts(
                connect_s=connect,
                first_byte_s=first_byte or gateway.request_timeout,
                chunk_s=table.chunk_timeout or gateway.chunk_timeout,
                total_s=table.total_timeout or gateway.total_timeout,
            ),
            max_body_bytes=table.max_body_size or gateway.max_body_size,
            replay_safe=literal if table.replay_safe is None else table.replay_safe,
            replay_inference=table.replay_safe is None,
            cache_ttl_s=int(table.cache_ttl or 0),
            retries=Retries(
                max_attempts=table.max_attempts,
                statuses=tuple(table.retry_on),
                fallbacks=tuple(Fallback(one.provider, one.model or "") for one in table.fallback),
                fallback_on=tuple(table.fallback_on),
                hedge=None if table.hedge is None else Hedge(table.hedge.after or 0.0, table.hedge.percentile or 0),
            ),
            stream_keepalive_s=table.stream_keepalive or 0.0,
            cors=route_cors((*here, "cors"), table.cors, self.cors, self.problems),
            **shaping(here, table, methods_of(table), self.problems),
        )

    def _burst(self, per_minute: int, own: int | None) -> int:
        """Return the burst of a route's rate: its own; else that of `[rate_limiting]`, limited to the route's requests
        per minute; else a tenth of them."""
        return own or (min(self.burst, per_minute) if self.burst else burst_of(per_minute))


def is_compressed(table: ProviderConfig) -> bool:
    """Return whether a provider's upstreams may send compressed answers."""
    return "accept-encoding" in table.forward_headers or "accept-encoding" in table.headers


def methods_of(table: RouteConfig) -> tuple[str, ...]:
    """Return the methods a route matches; empty for all."""
    if table.websocket and not table.method:
        return ("GET",)  # RFC 6455 4.1
    return () if "*" in table.method else tuple(dict.fromkeys(table.method))


def burst_of(per_minute: int) -> int:
    """Return the default burst: a tenth of the requests per minute, at least one."""
    return max(1, per_minute // 10)


def cores(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the default number of workers: the cores that this process may use, by its affinity and its control
    group's quota (a container on a large machine), limited to MAX_WORKERS."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (group / "cpu.max").read_text().split()
        if quota != "max":
            usable = min(usable, -(-int(quota) // int(period)))  # half a core is one worker
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return max(1, min(usable, MAX_WORKERS))


def _reason(error: Exception) -> str:
    """Return the reason for a failed read, without the path, which the message already has."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    if isinstance(error, OSError):
        return (error.strerror or "unreadable").lower()
    return "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "not a file's path"
