"""`python -m budgateway.demo`: runs only the demo model server."""

from __future__ import annotations

from budgateway.system.interpreter import leave_working_directory

if __name__ == "__main__":
    leave_working_directory(by_module=True)

import argparse
import asyncio
import contextlib
import signal

from budgateway.demo.server import DemoServer


async def serve(host: str, port: int, token_delay_s: float) -> None:
    """Serve until SIGINT or SIGTERM; prints the URL once the socket listens."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with DemoServer(host, port, token_delay_s=token_delay_s) as demo:
        print(f"demo model server on {demo.url}", flush=True)
        await stop.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m budgateway.demo", description="a model server without a model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free one")
    parser.add_argument(
        "--token-delay", type=float, default=0.02, metavar="SECONDS", help="between two streamed tokens"
    )
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.host, options.port, options.token_delay))


if __name__ == "__main__":
    main()
