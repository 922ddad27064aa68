"""How many rows a second come in."""

from math import exp

_MEMORY_S = 0.25
"""Time in which an arrival loses most of its weight."""
_GRAIN_S = 0.001
"""Arrivals within it count as if at its begin, which is wrong by at most a part in 250."""


class ArrivalRate:
    """A rate that forgets exponentially; no work per second, little per arrival."""

    def __init__(self) -> None:
        self.num_rows = 0
        """All that ever came."""
        self._rows_per_s = 0.0
        self._at = 0.0

    def observe(self, rows: int, now: float) -> None:
        """Count rows."""
        self.num_rows += rows
        if now - self._at < _GRAIN_S:
            self._rows_per_s += rows / _MEMORY_S
            return
        self._rows_per_s = self.rows_per_s(now) + rows / _MEMORY_S
        self._at = now

    def rows_per_s(self, now: float) -> float:
        """Return the present rate."""
        elapsed_s = now - self._at
        if elapsed_s <= 0:
            return self._rows_per_s
        return self._rows_per_s * exp(-elapsed_s / _MEMORY_S)
