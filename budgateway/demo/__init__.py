"""The embedded model server: a tiny, deterministic stand-in for a model that `serve --demo` and the tests start."""

from budgateway.demo.server import DemoServer

__all__ = ["DemoServer"]
