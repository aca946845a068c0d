"""nginx: the yardstick. A plain reverse proxy, as fast as a careful operator sets it up."""

from __future__ import annotations

import os
from typing import ClassVar

from benchmarks.load.peers.base import Launch, Peer, first_line, tool

CONFIG = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 75;
    # The default of 1000 requests a connection would reconnect in mid-run.
    keepalive_requests 1000000000;
    # The default of 16 KiB would write a 20 KB prompt to a file.
    client_body_buffer_size 64k;
    client_max_body_size 10m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream model {{
        server 127.0.0.1:{upstream_port};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


class Nginx(Peer):
    """One worker, upstream keep-alive, no response buffering, no log."""

    name: ClassVar[str] = "nginx"
    does: ClassVar[str] = "plain proxying: reads no JSON, knows no models, no limits, no metrics, no access log"

    def installed(self) -> bool:
        return tool("nginx") is not None

    def version(self) -> str:
        return first_line([tool("nginx") or "nginx", "-v"]).removeprefix("nginx version: nginx/")

    def command(self, launch: Launch) -> list[str]:
        text = CONFIG.format(
            user="user root;" if os.geteuid() == 0 else "",
            folder=launch.folder,
            port=launch.port,
            upstream_port=launch.upstream_port,
        )
        return [
            tool("nginx") or "nginx",
            "-e",
            str(launch.folder / "error.log"),
            "-c",
            str(launch.write("nginx.conf", text)),
        ]
