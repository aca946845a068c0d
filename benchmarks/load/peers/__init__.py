"""The gateways that are compared, one class each."""

from __future__ import annotations

from benchmarks.load.peers.base import NotStarted, Peer
from benchmarks.load.peers.budgateway import Budgateway
from benchmarks.load.peers.envoy import Envoy
from benchmarks.load.peers.haproxy import Haproxy
from benchmarks.load.peers.litellm import Litellm
from benchmarks.load.peers.nginx import Nginx
from benchmarks.load.peers.portkey import Portkey
from benchmarks.load.peers.routers import SglangRouter, Smg, VllmRouter

# In the order of the table; nginx is what the others are divided by.
ALL: tuple[type[Peer], ...] = (
    Budgateway,
    Nginx,
    Haproxy,
    Envoy,
    VllmRouter,
    SglangRouter,
    Smg,
    Portkey,
    Litellm,
)

__all__ = ["ALL", "NotStarted", "Peer"]
