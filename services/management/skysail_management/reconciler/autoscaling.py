"""How many replicas a load needs, so that its queries are in time: a policy without I/O or clock.

    frontends ──► loads ──► demand in replicas ──► grow now │ shrink after a calm while

A replica computes B rows in l(B) seconds, where B is the largest batch with 2 · l(B) ≤ SLO: a query
that just misses one batch waits for it and is in time in the next. R rows a second need R · l(B) / B
replicas, and a part of each stays free for what is not steady (`target`).

Source: Shen et al., "Nexus", SOSP 2019, section 4.1 (replicas of one model as the rate over B / l(B)
with 2 · l(B) ≤ SLO); Kubernetes, "Horizontal Pod Autoscaling", "Algorithm details" and "Stabilization
window" and "Default behavior" (round up; a tolerance of a tenth; growth at once, to the double or by 4;
the largest recommendation of the last 5 minutes bounds a shrink). Changed: the rate is that of what arrives, not of what is answered, so that
what is shed counts, and only growth for its sake is bounded; missed deadlines correct what the learned latencies promise (`strain`); a shrink
is by half at most.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

_TOLERANCE = 0.1
"""A shrink must leave so much of the target free, so that noise does not undo it."""

_LATE = 0.01
"""Share of rows that were not in time for lack of a free replica, above which there are too few."""

_USED_UP = 0.95
"""Mean share of their time that queries have used when answered, above which slack is short."""

_OCCUPIED = 0.7
_OCCUPIED_AT_ALL = 0.2
"""Replicas that compute less of the time are not why slack is short, or rows are late."""

_MAX_FACTOR = 2
_MAX_MORE = 4
"""Because of rows that are late there may be so many times as many replicas as are ready, or so many
more: whoever is refused may ask again, so that they are counted more than once."""

_EASE_AFTER = 6
"""Windows of replicas that are less busy than their target, after which half of the strain is
forgotten."""

_EPSILON = 1e-9
_ENDLESS = 1e6


@dataclass(frozen=True)
class AutoscalingOptions:
    """What holds for every version."""

    target: float
    """Share of what replicas can compute that is to be used, above 0 and at most 1."""
    shrink_after_s: float
    """Time for which fewer replicas must have sufficed before some are stopped."""
    report_timeout_s: float
    """Age at which a report says nothing any more."""


@dataclass(frozen=True)
class Bounds:
    """How many replicas there may be."""

    min_replicas: int
    max_replicas: int

    def clamp(self, num_replicas: int) -> int:
        """Return the number within the bounds that is nearest."""
        return max(self.min_replicas, min(self.max_replicas, num_replicas))


@dataclass(frozen=True)
class ObservedLoad:
    """What a frontend says about a version, of the time since it last did."""

    received_at: float
    """Instant at which it said it."""
    window_s: float
    """Seconds that it is about, above 0."""
    arrived_rows: int
    late_rows: int
    """Rows given up that a free replica would have answered in time."""
    busy_s: float
    """Seconds that replicas computed for this frontend, of all replicas together."""
    capacity_rows_per_s: float
    """Rows a second of one replica, in batches that are in time; 0 where not known."""
    deadline_used: float
    """Mean share of its time that the most urgent query of a batch had used when it was answered."""


@dataclass(frozen=True)
class ScalingDecision:
    """How many replicas are right now, and why, for people."""

    num_replicas: int
    reason: str


class AutoscalingPolicy:
    """Decides for one version; remembers what it recommended.

    Knows nothing of what was before it began: it shrinks nothing before a whole window has passed.
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
        """Return how many replicas there should be.

        Args:
            bounds: Hold whatever the load is.
            num_replicas: Replicas wanted so far.
            num_ready: Replicas that take batches.
            loads: The last of each frontend; what is too old is left out.
            now: The present instant; never less than before.

        Returns:
            A number within the bounds. Without any report it is the present one, if that is.
        """
        if self._changed_at is None:
            self._changed_at = self._eased_at = now
        if num_ready != self._num_ready:
            self._num_ready, self._ready_since = num_ready, now
        current = bounds.clamp(num_replicas)
        fresh = [load for load in loads if now - load.received_at <= self._options.report_timeout_s]
        demand = _demand(fresh)
        reason = "the load is what it was"
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
        return ScalingDecision(max(bounds.min_replicas, self._shrunk(current, now)), reason)

    def _wanted(self, loads: Sequence[ObservedLoad], demand: float, current: int) -> int:
        least = self._needed(demand)
        if least >= current:
            in_time = _demand(loads, with_late=False) or 0.0
            return max(current, min(least, max(self._needed(in_time), self._most)))
        return min(current, self._needed(demand / (1 - _TOLERANCE)))

    def _needed(self, demand: float) -> int:
        # More than there may ever be is as good as infinity, which no integer is.
        return ceil(min(_ENDLESS, self._strain * demand / self._options.target) - _EPSILON)

    @property
    def _most(self) -> int:
        return max(_MAX_FACTOR * self._num_ready, self._num_ready + _MAX_MORE)

    def _pressure(
        self, loads: Sequence[ObservedLoad], num_replicas: int, demand: float, busy: float
    ) -> str:
        """Return how deadlines are missed although replicas should suffice; empty if none are.

        What is to come is not there yet, and what was before it came says nothing: only a load
        that all wanted replicas had counts.
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
        # They computed all that they could, which was what was not late.
        needed = num_ready * arrived / max(1, arrived - late)
        self._strain = max(self._strain, min(needed, self._most * self._options.target) / demand)
        return text

    def _shrunk(self, current: int, now: float) -> int:
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
    """Return how many replicas would compute all that arrives; None where nobody can say."""

    def rows(load: ObservedLoad) -> int:
        return load.arrived_rows if with_late else max(0, load.arrived_rows - load.late_rows)

    known = [load.capacity_rows_per_s for load in loads if load.capacity_rows_per_s > 0]
    has_arrivals = any(load.arrived_rows for load in loads)
    if not loads or (has_arrivals and not known):
        return None
    # One that has not learned yet how fast replicas are: as slow as others say.
    least = min(known, default=1.0)
    return sum(rows(load) / load.window_s / (load.capacity_rows_per_s or least) for load in loads)
