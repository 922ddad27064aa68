"""Time as an argument: whatever decides by time is given a clock.

All instants are those of one monotonic clock, in seconds; they never leave the process.
"""

from collections.abc import Callable
from time import monotonic

Clock = Callable[[], float]
"""Returns the present instant, in seconds; never goes back."""

MONOTONIC: Clock = monotonic
"""The clock of the machine."""

NEVER = float("inf")
"""An instant that does not come: the deadline of a query that has none."""
