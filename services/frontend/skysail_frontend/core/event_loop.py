"""Turns and timers: the part of an event loop that the core uses."""

from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call."""
        ...


class EventLoop(Protocol):
    """An event loop as the core uses it."""

    def call_soon(self, callback: Callable[[], None]) -> object:
        """Call back at the end of this turn."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back after `delay` seconds."""
        ...
