"""The limit: servers that answer what they are sent, each on one transport; here their paths."""

import asyncio
import sys

UNARY = "/benchmark.Echo/Unary"
STREAM = "/benchmark.Echo/Stream"


async def serve_until_left(port: int) -> None:
    """Print the port, and return when standard input ends: nobody holds its other end any more."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
