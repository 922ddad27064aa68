"""What comes right after a result: whoever asks in a loop asks again once answered.

With one replica, callers in a loop fall apart into cohorts: one is computed while the other waits,
each with a part of the rows that a batch could have. Whoever waits a moment for those who were just
answered has them all in one batch.
"""

_LONGEST_SHARE = 0.5
"""Later than this part of a batch's latency after its result, nothing counts as its return."""

_WEIGHT = 0.25
_SLACK = 1.25
"""Times as long as returns usually take is waited for them."""


class ClosedLoop:
    """How many rows of an answered batch come back, and in what time; learned from each result."""

    def __init__(self) -> None:
        self._share = 0.0
        self._spread_s = 0.0
        self._answered_at = 0.0
        self._window_s = 0.0
        self._answered_rows = 0
        self._returned_rows = 0
        self._last_at = 0.0

    def observe_result(self, rows: int, latency_s: float, now: float) -> None:
        """Begin to count what comes back.

        Args:
            rows: Size of the batch.
            latency_s: How long such a batch takes.
            now: The present instant.
        """
        if self._answered_rows:
            share = min(1.0, self._returned_rows / self._answered_rows)
            self._share += _WEIGHT * (share - self._share)
            if self._returned_rows:
                spread_s = self._last_at - self._answered_at
                self._spread_s += _WEIGHT * (spread_s - self._spread_s)
        self._answered_rows, self._returned_rows = rows, 0
        self._answered_at, self._window_s = now, _LONGEST_SHARE * latency_s

    def observe_arrival(self, rows: int, now: float) -> None:
        """Count rows that came in."""
        # What came before the answer is no return of it.
        is_within = 0.0 <= now - self._answered_at <= self._window_s
        if is_within and self._returned_rows < self._answered_rows:
            self._returned_rows += rows
            self._last_at = now

    def expected_returns(self, now: float) -> tuple[float, float]:
        """Return how many rows are still to come back, and until what instant."""
        until = self._answered_at + _SLACK * self._spread_s
        if until <= now:
            return 0.0, now
        return max(0.0, self._share * self._answered_rows - self._returned_rows), until
