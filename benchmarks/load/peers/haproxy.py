"""HAProxy: a plain reverse proxy, one thread."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.load.peers.base import Launch, Peer, first_line, tool

CONFIG = """
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    no log
    # Without it small chunks wait for more (up to 40 ms).
    option http-no-delay
    http-reuse always
    timeout connect 2s
    timeout client 1h
    timeout server 1h
frontend gateway
    bind 127.0.0.1:{port} backlog 4096
    default_backend model
backend model
    balance leastconn
    server one 127.0.0.1:{upstream_port} pool-max-conn -1
"""


class Haproxy(Peer):
    """One thread, connection reuse, no delay, no log."""

    name: ClassVar[str] = "haproxy"
    does: ClassVar[str] = "plain proxying with least connections: reads no JSON, no limits, no log"

    def installed(self) -> bool:
        return tool("haproxy") is not None

    def version(self) -> str:
        return first_line([tool("haproxy") or "haproxy", "-v"]).split()[2]

    def command(self, launch: Launch) -> list[str]:
        text = CONFIG.format(port=launch.port, upstream_port=launch.upstream_port)
        return [tool("haproxy") or "haproxy", "-db", "-f", str(launch.write("haproxy.cfg", text))]
