"""The load of a version, and whether its replicas keep up, computed from its counters."""

from collections.abc import Collection
from dataclasses import dataclass

from skysail_common.clock import NEVER
from skysail_common.identifiers import ModelVersion
from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_frontend.core.version_dispatcher import VersionDispatcher


@dataclass(frozen=True)
class VersionLoad:
    """The load of one version between two measurements."""

    window_s: float
    arrived_rows: int
    late_rows: int
    """Rows not answered that an idle replica would have answered in time."""
    busy_s: float
    """Seconds of computation, summed over all replicas."""
    capacity_rows_per_s: float
    """Rows per second of one replica, in batches that are in time; 0 if unknown."""
    deadline_used: float
    """Mean share of its budget that the most urgent query of a batch had used at the answer.

    0 if no batch was answered."""


@dataclass(frozen=True)
class _Totals:
    at: float
    arrived_rows: int
    late_rows: int
    busy_s: float
    used: float
    num_answered: int


class LoadMeter:
    """Measures loads as differences between successive counters."""

    def __init__(self) -> None:
        self._last: dict[ModelVersion, tuple[VersionDispatcher, _Totals]] = {}

    def measure(self, version: VersionDispatcher, now: float) -> VersionLoad | None:
        """Return the load of a version since its last measurement; None the first time."""
        name = version.served.name
        totals = _totals(version, now)
        known, last = self._last.get(name, (None, totals))
        self._last[name] = (version, totals)
        # The counters of a redeployed version start again at 0.
        if known is not version or totals.at <= last.at:
            return None
        num_answered = totals.num_answered - last.num_answered
        return VersionLoad(
            totals.at - last.at,
            totals.arrived_rows - last.arrived_rows,
            totals.late_rows - last.late_rows,
            totals.busy_s - last.busy_s,
            version_capacity(version),
            (totals.used - last.used) / num_answered if num_answered else 0.0,
        )

    def keep_only(self, names: Collection[ModelVersion]) -> None:
        """Forget all other versions."""
        for name in self._last.keys() - set(names):
            del self._last[name]


def _totals(version: VersionDispatcher, now: float) -> _Totals:
    statistics = version.statistics
    used = statistics.deadline_used
    return _Totals(
        now,
        version.batcher.rate.num_rows,
        statistics.late_rows,
        statistics.compute_s.sum,
        used.sum,
        sum(used.counts),
    )


def version_capacity(version: VersionDispatcher) -> float:
    """Return the rows per second that one replica answers in time; 0 if unknown."""
    profile = version.batcher.profile
    return capacity(
        profile, version.statistics.usual_budget_s, version.served.serving.max_batch_size
    )


def capacity(profile: LatencyProfile, budget_s: float, max_rows: int) -> float:
    """Return the rows per second of one replica, in batches after which another is in time.

    Source: Shen et al., "Nexus", SOSP 2019, section 4.1: B / l(B) of the largest B with
    2 · l(B) ≤ SLO. Changed: B is 1 if even that takes longer.

    Args:
        profile: Latencies of batches.
        budget_s: Budget of a query at its arrival; 0 if unknown.
        max_rows: Largest number of rows of a batch.

    Returns:
        The rows per second; 0 if the profile is empty or the budget is unknown.
    """
    if profile.is_empty or not budget_s:
        return 0.0
    rows = max_rows if budget_s == NEVER else max(1, profile.largest(budget_s / 2, max_rows))
    return rows / profile.latency_s(rows)
