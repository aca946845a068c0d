"""The embedded model server: a tiny, deterministic stand-in for a model, started by `serve --demo` and the tests."""

from budgateway.demo.server import DemoServer

__all__ = ["DemoServer"]
