"""Time as an argument: code that decides by time takes a clock.

All instants come from one monotonic clock, in seconds, and never leave the process.
"""

import asyncio
from collections.abc import Callable
from time import monotonic

Clock = Callable[[], float]
"""A function that returns the present instant, in seconds; it never goes back."""

MONOTONIC: Clock = monotonic
"""The clock of the machine."""

NEVER = float("inf")
"""An instant that never comes: the deadline of a query without a deadline."""


async def wait_until(event: asyncio.Event, instant: float, clock: Clock) -> None:
    """Wait for an event; set the event if the instant comes first."""
    if instant == NEVER:
        await event.wait()
        return
    # Before Python 3.12, wait_for loses a cancellation that comes at the same time as its result.
    timer = asyncio.get_running_loop().call_later(max(0.0, instant - clock()), event.set)
    try:
        await event.wait()
    finally:
        timer.cancel()
