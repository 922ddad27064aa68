"""The rate at which rows arrive."""

from math import exp

_MEMORY_S = 0.25
"""Time constant of the decay: an arrival loses 63 % of its weight in it."""
_GRAIN_S = 0.001
"""Resolution: arrivals within it count from its beginning, an error of at most 0.4 %."""


class ArrivalRate:
    """An exponentially decaying rate, updated only at arrivals."""

    def __init__(self) -> None:
        self.num_rows = 0
        """Total number of rows that have arrived."""
        self._rows_per_s = 0.0
        self._at = 0.0

    def observe(self, rows: int, now: float) -> None:
        """Count rows that arrive at an instant."""
        self.num_rows += rows
        if now - self._at < _GRAIN_S:
            self._rows_per_s += rows / _MEMORY_S
            return
        self._rows_per_s = self.rows_per_s(now) + rows / _MEMORY_S
        self._at = now

    def rows_per_s(self, now: float) -> float:
        """Return the rate at an instant."""
        elapsed_s = now - self._at
        if elapsed_s <= 0:
            return self._rows_per_s
        return self._rows_per_s * exp(-elapsed_s / _MEMORY_S)
