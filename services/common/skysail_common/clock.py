"""Time as an argument: code that decides by time takes a clock.

All instants are those of one monotonic clock, in seconds; they never leave the process.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

Clock = Callable[[], float]
"""Returns the present instant, in seconds; never goes back."""

MONOTONIC: Clock = monotonic
"""The clock of the machine."""

NEVER = float("inf")
"""An instant that does not come: the deadline of a query that has none."""


async def wait_until(event: asyncio.Event, instant: float, clock: Clock) -> None:
    """Return once the event is set, which it is at the latest at the instant."""
    if instant == NEVER:
        await event.wait()
        return
    # No wait_for: before Python 3.12 it loses a cancellation that comes along with its result.
    timer = asyncio.get_running_loop().call_later(max(0.0, instant - clock()), event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
