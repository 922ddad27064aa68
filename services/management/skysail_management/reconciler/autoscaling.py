"""The policy that computes the number of replicas for a load, without I/O or a clock.

    frontends ──► loads ──► demand in replicas ──► grow now │ shrink after a stable window

A replica computes B rows in l(B) seconds, where B is the largest batch with 2 · l(B) ≤ SLO: a query
that just misses one batch waits for it and is in time in the next. R rows a second need R · l(B) /
B replicas. A share of each replica stays free for variation (`target`).

Source: Shen et al., "Nexus", SOSP 2019, section 4.1 (replicas of one model as the rate over B /
l(B) with 2 · l(B) ≤ SLO); Kubernetes, "Horizontal Pod Autoscaling", "Algorithm details" and
"Stabilization window" and "Default behavior" (round up; a tolerance of a tenth; growth at once, to
the double or by 4; the largest recommendation of the last 5 minutes bounds a shrink). Changed: the
rate counts arrivals, not answers, so that shed queries count, and only growth because of them is
bounded; missed deadlines correct the promise of the learned latencies (`strain`); a shrink halves
the number at most.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

_TOLERANCE = 0.1
"""Share of the target that a shrink must leave free, so that noise does not undo it."""

_LATE = 0.01
"""Share of rows late for lack of a free replica, above which replicas are too few."""

_USED_UP = 0.95
"""Mean share of the budget that answered queries used, above which slack is short."""

_OCCUPIED = 0.7
_OCCUPIED_AT_ALL = 0.2
"""Replicas below these shares of busy time are not the cause of short slack, or of late rows."""

_MAX_FACTOR = 2
_MAX_MORE = 4
"""Late rows may raise the number of replicas to this multiple of the ready ones, or by this many.
The bound is necessary because a rejected caller may retry, so that its rows count more than
once."""

_EASE_AFTER = 6
"""Windows below the target of busy time after which the strain is halved."""

_EPSILON = 1e-9
_ENDLESS = 1e6


@dataclass(frozen=True)
class AutoscalingOptions:
    """Settings that all versions share."""

    target: float
    """Desired share of the capacity of the replicas, above 0 and at most 1."""
    shrink_after_s: float
    """Time for which fewer replicas must suffice before a shrink, in seconds."""
    report_timeout_s: float
    """Age at which a report expires, in seconds."""


@dataclass(frozen=True)
class Bounds:
    """The bounds of the number of replicas."""

    min_replicas: int
    max_replicas: int

    def clamp(self, num_replicas: int) -> int:
        """Return the nearest number within the bounds."""
        return max(self.min_replicas, min(self.max_replicas, num_replicas))


@dataclass(frozen=True)
class ObservedLoad:
    """The load of a version at one frontend, since the previous report of that frontend."""

    received_at: float
    """Instant at which the report arrived."""
    window_s: float
    """Length of the reported window in seconds, above 0."""
    arrived_rows: int
    late_rows: int
    """Rows that were shed and that a free replica would have answered in time."""
    busy_s: float
    """Busy time of all replicas for this frontend, in seconds."""
    capacity_rows_per_s: float
    """Rows a second of one replica, in batches that meet the deadline; 0 if unknown."""
    deadline_used: float
    """Mean share of its budget that the most urgent query of a batch had used at its answer."""


@dataclass(frozen=True)
class ScalingDecision:
    """The number of replicas for the present load, with the reason for people."""

    num_replicas: int
    reason: str


class AutoscalingPolicy:
    """The autoscaling policy of one version, with its recent recommendations.

    The policy has no earlier history, so that it shrinks nothing before a whole window has passed.
    """

    def __init__(self, options: AutoscalingOptions) -> None:
        self._options = options
        self._strain = 1.0
        self._recommended: deque[tuple[float, int]] = deque()
        self._changed_at: float | None = None
        self._eased_at = 0.0
        self._num_ready = -1
        self._ready_since = 0.0

    def decide(
        self,
        bounds: Bounds,
        num_replicas: int,
        num_ready: int,
        loads: Sequence[ObservedLoad],
        now: float,
    ) -> ScalingDecision:
        """Return the number of replicas for the present load.

        Args:
            bounds: Bounds of the number, regardless of the load.
            num_replicas: Desired replicas before this decision.
            num_ready: Replicas that take batches.
            loads: The last load of each frontend; expired ones are ignored.
            now: The present instant, monotonic.

        Returns:
            A number within the bounds. Without a report, it is the present number, clamped.
        """
        if self._changed_at is None:
            self._changed_at = self._eased_at = now
        if num_ready != self._num_ready:
            self._num_ready, self._ready_since = num_ready, now
        current = bounds.clamp(num_replicas)
        fresh = [load for load in loads if now - load.received_at <= self._options.report_timeout_s]
        demand = _demand(fresh)
        reason = "the load is unchanged"
        if demand is None:
            wanted = current
        else:
            busy = sum(load.busy_s / load.window_s for load in fresh) / max(1, num_ready)
            pressure = self._pressure(fresh, num_replicas, demand, busy)
            reason = pressure or f"{demand:.2g} replicas' worth of rows arrive"
            wanted = bounds.clamp(self._wanted(fresh, demand, current))
            if pressure:
                wanted = max(wanted, current)
            if pressure or busy >= self._options.target:
                self._eased_at = now
        self._recommended.append((now, wanted))
        if wanted > current:
            self._change(now)
            return ScalingDecision(wanted, reason)
        return ScalingDecision(max(bounds.min_replicas, self._shrink(current, now)), reason)

    def _wanted(self, loads: Sequence[ObservedLoad], demand: float, current: int) -> int:
        least = self._needed(demand)
        if least >= current:
            in_time = _demand(loads, with_late=False) or 0.0
            return max(current, min(least, max(self._needed(in_time), self._most)))
        return min(current, self._needed(demand / (1 - _TOLERANCE)))

    def _needed(self, demand: float) -> int:
        # The bound avoids infinity, which no integer represents.
        return ceil(min(_ENDLESS, self._strain * demand / self._options.target) - _EPSILON)

    @property
    def _most(self) -> int:
        return max(_MAX_FACTOR * self._num_ready, self._num_ready + _MAX_MORE)

    def _pressure(
        self, loads: Sequence[ObservedLoad], num_replicas: int, demand: float, busy: float
    ) -> str:
        """Return how deadlines are missed although replicas should suffice; empty if none are.

        A load counts only if all desired replicas were ready during its whole window.
        """
        num_ready = self._num_ready
        began = min(load.received_at - load.window_s for load in loads)
        if demand <= 0 or not num_ready >= num_replicas > 0 or began < self._ready_since:
            return ""
        arrived = sum(load.arrived_rows for load in loads)
        late = min(arrived, sum(load.late_rows for load in loads))
        answering = [load for load in loads if load.deadline_used > 0]
        weight = sum(load.busy_s for load in answering)
        used = sum(load.deadline_used * load.busy_s for load in answering) / weight if weight else 0
        if late > _LATE * arrived and busy >= _OCCUPIED_AT_ALL:
            text = f"{late} of {arrived} rows were not in time"
        elif used >= _USED_UP and busy >= _OCCUPIED:
            text = f"answers take {used:.0%} of their time"
        else:
            return ""
        # The replicas ran at capacity, which equals the rows in time.
        needed = num_ready * arrived / max(1, arrived - late)
        self._strain = max(self._strain, min(needed, self._most * self._options.target) / demand)
        return text

    def _shrink(self, current: int, now: float) -> int:
        window_s = self._options.shrink_after_s
        while self._recommended[0][0] < now - window_s:
            self._recommended.popleft()
        if now - self._eased_at >= _EASE_AFTER * window_s:
            self._strain, self._eased_at = 1 + (self._strain - 1) / 2, now
        assert self._changed_at is not None
        if now - self._changed_at < window_s:
            return current
        enough = max(number for _, number in self._recommended)
        if enough >= current:
            return current
        self._change(now)
        return max(enough, ceil(current / 2))

    def _change(self, now: float) -> None:
        self._changed_at = now
        self._recommended.clear()


def _demand(loads: Sequence[ObservedLoad], *, with_late: bool = True) -> float | None:
    """Return how many replicas all arrivals need, or None if that is unknown."""

    def rows(load: ObservedLoad) -> int:
        return load.arrived_rows if with_late else max(0, load.arrived_rows - load.late_rows)

    known = [load.capacity_rows_per_s for load in loads if load.capacity_rows_per_s > 0]
    has_arrivals = any(load.arrived_rows for load in loads)
    if not loads or (has_arrivals and not known):
        return None
    # A frontend without learned latencies counts as slow as the slowest other one.
    least = min(known, default=1.0)
    return sum(rows(load) / load.window_s / (load.capacity_rows_per_s or least) for load in loads)
