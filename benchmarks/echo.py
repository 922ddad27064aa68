"""The echo servers, which show the limit of each transport: their paths and their end."""

import asyncio
import sys

UNARY = "/benchmark.Echo/Unary"
STREAM = "/benchmark.Echo/Stream"


async def serve_until_left(port: int) -> None:
    """Print the port, and return when standard input ends because the parent has ended."""
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
