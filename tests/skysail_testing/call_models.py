"""Functions of one input, coroutine functions and functions with parameters, deployed by tests."""

import asyncio
import os
from pathlib import Path
from typing import Any


def norm(x):
    """Return the length of one vector; refuse the number 666."""
    if (x == 666).any():
        raise ValueError("666 is not welcome")
    return float((x * x).sum() ** 0.5)


class Waiter:
    """A model that waits for a lock of its event loop, as for a client."""

    async def load(self, context: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.running = 0

    async def predict(self, x):
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("another event loop")
        if (x == 666).any():
            raise asyncio.CancelledError
        self.running += 1
        await asyncio.sleep(0.05)
        most = self.running
        await asyncio.sleep(0.01)
        self.running -= 1
        return x * 0 + most

    async def close(self) -> None:
        Path(os.environ["CLOSED_FILE"]).write_text("closed\n")


async def never(x):
    if (x == 666).any():
        await asyncio.Event().wait()
    return x


def over(x, *, params):
    """Return whether each number is over the threshold of its query."""
    return x > params.get("threshold", 0.5)


class Checked:
    """A model that is unhealthy while its work directory has a file `ill`."""

    def predict(self, x):
        return x + 1

    def check_health(self):
        if Path("ill").exists():
            raise ConnectionError("lost the device")

    def on_unhealthy(self, error):
        if Path("curable").exists():
            Path("ill").unlink()
            Path("curable").unlink()
