"""Reservations of stored files, so that a sweep spares those that a caller is about to use."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from skysail_common.clock import Clock

_MAX_RESERVATIONS = 1000
"""Most reservations of one name; the oldest are dropped beyond."""


class Reservations:
    """Names that a sweep spares: reserved for some time, or pinned inside a `with` block."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        """Create an empty set whose reservations last for `seconds`."""
        self._seconds = seconds
        self._clock = clock
        self._ends: dict[str, deque[float]] = {}
        self._pins: dict[str, int] = {}

    def reserve(self, name: str) -> None:
        """Reserve a name; several callers may reserve the same one."""
        ends = self._ends.setdefault(name, deque(maxlen=_MAX_RESERVATIONS))
        ends.append(self._clock() + self._seconds)

    def consume(self, name: str) -> None:
        """End the oldest reservation of a name, if it has one."""
        ends = self._ends.get(name)
        if ends:
            ends.popleft()
            if not ends:
                del self._ends[name]

    @contextmanager
    def pinned(self, names: Iterable[str]) -> Iterator[None]:
        """Spare names inside the block."""
        names = list(names)
        for name in names:
            self._pins[name] = self._pins.get(name, 0) + 1
        try:
            yield
        finally:
            for name in names:
                self._pins[name] -= 1
                if not self._pins[name]:
                    del self._pins[name]

    def spared(self) -> Collection[str]:
        """Return the names that are reserved now or pinned."""
        now = self._clock()
        for name, ends in list(self._ends.items()):
            while ends and ends[0] <= now:
                ends.popleft()
            if not ends:
                del self._ends[name]
        return self._ends.keys() | self._pins.keys()
