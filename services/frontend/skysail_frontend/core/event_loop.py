"""The part of an event loop that the core uses: turns and timers."""

from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Have it not come."""
        ...


class EventLoop(Protocol):
    """What the core needs of an event loop."""

    def call_soon(self, callback: Callable[[], None]) -> object:
        """Call back at the end of this turn."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back after `delay` seconds."""
        ...
