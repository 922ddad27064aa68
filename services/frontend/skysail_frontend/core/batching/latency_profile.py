"""The latency of a batch as a function of its rows, learned from past batches.

Each size has a window of recent latencies, whose 80th percentile is its estimate. The profile is
monotone: adjacent sizes that violate the order are pooled (Barlow et al., "Statistical Inference
under Order Restrictions", 1972). Between sizes it is linear.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from math import ceil

_WINDOW = 64
_QUANTILE = 0.8
_OUTLIER_FACTOR = 3.0
_RECOMPUTE_EVERY = 8
_FRESH_S = 30.0
_STALE_WEIGHT = 0.5
_EPSILON = 1e-6
"""Rounding error of a linear function and its inverse."""

Points = Sequence[tuple[int, float]]
"""Rows of batches and their latencies in seconds, both ascending."""


class _LatencyWindow:
    """The recent latencies of batches of about one size."""

    __slots__ = ("has_new", "latency_s", "observed", "samples")

    def __init__(self) -> None:
        self.samples: deque[float] = deque(maxlen=_WINDOW)
        self.has_new = False
        self.latency_s = 0.0
        self.observed = 0.0

    def estimate(self) -> None:
        """Set the estimate to the 80th percentile of the latencies without outliers.

        A higher percentile plans for the pauses of a busy machine. The smaller batches that follow
        cost more queries than the pauses do. If one batch in twenty takes two to four times as
        long, the 80th percentile answers 1 to 10 points more queries in time than the 95th, and as
        many if none does (simulated).

        Outliers are removed so that a pause of the process does not count as the speed of the
        model. Latencies that persist are no outliers, because they move the median.
        """
        self.has_new = False
        ordered = sorted(self.samples)
        bound = _OUTLIER_FACTOR * ordered[(len(ordered) - 1) // 2]
        ordered = ordered[: bisect_right(ordered, bound)]
        self.latency_s = ordered[ceil(_QUANTILE * len(ordered)) - 1]


class LatencyProfile:
    """The latency function l(b) of a version, shared by its replicas."""

    def __init__(self, points: Points = ()) -> None:
        """Starts empty, or with the points of another profile.

        Args:
            points: Points of another profile or of a warm-up sweep.
        """
        self._windows: dict[int, _LatencyWindow] = {}
        self._rows: list[int] = []
        self._latencies: list[float] = []
        self._now = 0.0
        self._num_unused = 0
        self.is_empty = True
        """True while no latency is known."""
        self.revision = 0
        """Counter of changes of the profile."""
        self.num_observed = 0
        """Number of batches observed."""
        self.seed(points)

    def seed(self, points: Points) -> None:
        """Add the points of another profile for sizes without latencies."""
        for rows, latency_s in points:
            window = self._windows.setdefault(_bucket(rows), _LatencyWindow())
            if not window.samples:
                window.samples.append(latency_s)
                window.has_new = True
        self._rebuild()

    def observe(self, rows: int, latency_s: float, now: float) -> None:
        """Learn the latency of a batch.

        Args:
            rows: Rows of the batch.
            latency_s: Time from sending to result, without the wait for other batches.
            now: The present instant.
        """
        bucket = _bucket(rows)
        window = self._windows.get(bucket)
        if window is None:
            window = self._windows[bucket] = _LatencyWindow()
        if self._rows and not window.samples:
            # The first latency of a size may be an outlier. The bound keeps one pause from ruling
            # out this size and, by pooling, all larger sizes for good.
            latency_s = min(latency_s, _OUTLIER_FACTOR * self.latency_s(rows))
        window.samples.append(latency_s)
        window.has_new = True
        window.observed = self._now = now
        self.num_observed += 1
        self._num_unused += 1
        if len(window.samples) <= _RECOMPUTE_EVERY or self._num_unused >= _RECOMPUTE_EVERY:
            self._rebuild()

    def _rebuild(self) -> None:
        """Pool adjacent violators: merge sizes until none is faster than a smaller one."""
        self._num_unused = 0
        self.revision += 1
        rows = sorted(self._windows)
        pools: list[tuple[float, float, int]] = []
        for each in rows:
            window = self._windows[each]
            if window.has_new:
                window.estimate()
            is_fresh = self._now - window.observed <= _FRESH_S
            weight = len(window.samples) if is_fresh else _STALE_WEIGHT
            latency_s, size = window.latency_s, 1
            while pools and pools[-1][0] >= latency_s:
                other_s, other_weight, other_size = pools.pop()
                total = weight + other_weight
                latency_s = (latency_s * weight + other_s * other_weight) / total
                weight, size = total, size + other_size
            pools.append((latency_s, weight, size))
        self._rows = rows
        self.is_empty = not rows
        self._latencies = [latency_s for latency_s, _, size in pools for _ in range(size)]

    def latency_s(self, rows: int) -> float:
        """Return the latency of a batch with this number of rows; 0 while the profile is empty.

        Beyond the largest known size the latency grows with the mean slope of the known sizes, or
        in proportion to the rows if only one size is known.
        """
        known = self._rows
        if not known:
            return 0.0
        index = bisect_left(known, rows)
        if index == len(known):
            return self._latencies[-1] + (rows - known[-1]) * self._last_slope()
        if known[index] == rows or index == 0:
            return self._latencies[index]
        return _between(
            rows, known[index - 1], known[index], self._latencies[index - 1], self._latencies[index]
        )

    def largest(self, budget_s: float, limit: int) -> int:
        """Return the most rows up to `limit` whose latency is at most `budget_s`; may be 0."""
        latencies = self._latencies
        if not latencies:
            return limit
        index = bisect_right(latencies, budget_s)
        if index == 0:
            return 0
        known = self._rows
        if known[index - 1] >= limit:
            return limit
        if index == len(known):
            slope = self._last_slope()
            more = (budget_s - latencies[-1]) / slope if slope > 0 else limit
            return min(limit, known[-1] + int(min(more, limit)))
        rows = _between(
            budget_s, latencies[index - 1], latencies[index], known[index - 1], known[index]
        )
        return min(limit, int(rows + _EPSILON))

    def smallest_for(self, rows_per_s: float, limit: int) -> int:
        """Return the fewest rows with which a replica keeps up with a rate; at most `limit`."""
        previous_rows, previous_s = 0, 0.0
        sizes = [*self._rows, limit] if self._rows and self._rows[-1] < limit else self._rows
        for rows in sizes:
            latency_s = self.latency_s(rows)
            if rows >= rows_per_s * latency_s:
                if not previous_rows:
                    return min(limit, max(1, ceil(rows_per_s * latency_s - _EPSILON)))
                # The line between both sizes meets the rate at this size.
                slope = (latency_s - previous_s) / (rows - previous_rows)
                found = rows_per_s * (previous_s - slope * previous_rows) / (1 - rows_per_s * slope)
                return min(limit, max(previous_rows, ceil(found - _EPSILON)))
            previous_rows, previous_s = rows, latency_s
        return limit

    def _last_slope(self) -> float:
        """Return the seconds for each row beyond the largest known size."""
        rows, latencies = self._rows, self._latencies
        if len(rows) == 1:
            return latencies[0] / rows[0]
        return (latencies[-1] - latencies[0]) / (rows[-1] - rows[0])

    def points(self) -> list[tuple[int, float]]:
        """Return rows and latency of each known size."""
        return list(zip(self._rows, self._latencies, strict=True))


def _bucket(rows: int) -> int:
    """Return the size that represents `rows`: exact up to 16, then at most an eighth smaller."""
    shift = max(0, rows.bit_length() - 4)
    return (rows >> shift) << shift


def _between(x: float, x0: float, x1: float, y0: float, y1: float) -> float:
    return y0 + (x - x0) * (y1 - y0) / (x1 - x0)
