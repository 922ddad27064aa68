"""Closed-loop callers, each of which sends its next query right after an answer.

With one replica, such callers split into cohorts: one is computed while the other is queued, and
each batch has only a part of the rows that it could have. A batcher that waits a moment after a
result gets the queries of all callers into one batch.
"""

_LONGEST_SHARE = 0.5
"""Part of the latency of a batch for which arrivals after its result count as its returns."""

_WEIGHT = 0.25
"""Weight of the latest batch in the moving averages."""
_SLACK = 1.25
"""Multiple of the usual time of returns for which a batch is held for them."""


class ClosedLoop:
    """The share of the rows of a batch that return after its result, and how fast they return."""

    def __init__(self) -> None:
        self._share = 0.0
        self._spread_s = 0.0
        self._answered_at = 0.0
        self._window_s = 0.0
        self._answered_rows = 0
        self._returned_rows = 0
        self._last_at = 0.0

    def observe_result(self, rows: int, latency_s: float, now: float) -> None:
        """Start to count the returns of a batch.

        Args:
            rows: Rows of the batch.
            latency_s: Expected latency of the batch.
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
        """Count rows that arrive at an instant."""
        # A query that arrived before the result cannot be its return.
        is_within = 0.0 <= now - self._answered_at <= self._window_s
        if is_within and self._returned_rows < self._answered_rows:
            self._returned_rows += rows
            self._last_at = now

    def expected_returns(self, now: float) -> tuple[float, float]:
        """Return the number of rows expected to return, and the instant by which they should."""
        until = self._answered_at + _SLACK * self._spread_s
        if until <= now:
            return 0.0, now
        return max(0.0, self._share * self._answered_rows - self._returned_rows), until
