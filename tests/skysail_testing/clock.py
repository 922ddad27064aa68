"""A clock that tests advance, and an event loop that follows it."""

import heapq
from collections.abc import Callable
from itertools import count


class FakeClock:
    """A clock that stands still until a test advances it."""

    BEGIN = 1000.0

    def __init__(self, now: float = BEGIN) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class _Timer:
    def __init__(self, at: float, callback: Callable[[], None]) -> None:
        self.at = at
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """The part of an event loop that the core uses: callbacks and timers on a fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self._soon: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, _Timer]] = []
        self._numbers = count()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(self.clock() + delay, callback)
        heapq.heappush(self._timers, (timer.at, next(self._numbers), timer))
        return timer

    def turn(self) -> None:
        """Run all soon callbacks, including those that they schedule."""
        while self._soon:
            soon, self._soon = self._soon, []
            for callback in soon:
                callback()

    def run_until(self, instant: float) -> None:
        """Move the clock to an instant and run each timer at its own instant."""
        self.turn()
        while self._timers and self._timers[0][0] <= instant:
            at, _, timer = heapq.heappop(self._timers)
            self.clock.now = max(self.clock.now, at)
            if not timer.is_cancelled:
                timer.callback()
            self.turn()
        self.clock.now = max(self.clock.now, instant)

    def advance(self, seconds: float) -> None:
        self.run_until(self.clock() + seconds)
