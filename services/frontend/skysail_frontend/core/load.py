"""What a version has to do and whether its replicas keep up, from what is counted anyway."""

from collections.abc import Collection
from dataclasses import dataclass

from skysail_common.clock import NEVER
from skysail_common.identifiers import ModelVersion
from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_frontend.core.version_dispatcher import VersionDispatcher


@dataclass(frozen=True)
class VersionLoad:
    """Of one version, between two looks at it."""

    window_s: float
    arrived_rows: int
    late_rows: int
    """Rows given up that a free replica would have answered in time."""
    busy_s: float
    """Seconds that replicas computed, of all replicas together."""
    capacity_rows_per_s: float
    """Rows a second of one replica, in batches that are in time; 0 where not known."""
    deadline_used: float
    """Mean share of its time that the most urgent query of a batch had used when it was answered;
    0 where none was."""


@dataclass(frozen=True)
class _Totals:
    at: float
    arrived_rows: int
    late_rows: int
    busy_s: float
    used: float
    num_answered: int


class LoadMeter:
    """Takes differences of what versions count up."""

    def __init__(self) -> None:
        self._last: dict[ModelVersion, tuple[VersionDispatcher, _Totals]] = {}

    def measure(self, version: VersionDispatcher, now: float) -> VersionLoad | None:
        """Return the load of a version since this was last asked; None the first time."""
        name = version.served.name
        totals = _totals(version, now)
        known, last = self._last.get(name, (None, totals))
        self._last[name] = (version, totals)
        # One that was deployed again counts from the beginning.
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
    """Return the rows a second of one replica of a version that are in time; 0 if not known."""
    profile = version.batcher.profile
    return capacity(
        profile, version.statistics.usual_budget_s, version.served.serving.max_batch_size
    )


def capacity(profile: LatencyProfile, budget_s: float, max_rows: int) -> float:
    """Return the rows a second of one replica, in batches after which another is still in time.

    Source: Shen et al., "Nexus", SOSP 2019, section 4.1: B / l(B) of the largest B with
    2 · l(B) ≤ SLO. Changed: of one row where that takes longer.

    Args:
        profile: How long batches take.
        budget_s: Time that a query has when it arrives; 0 where not known.
        max_rows: Most rows of a batch.

    Returns:
        0 where nothing is known.
    """
    if profile.is_empty or not budget_s:
        return 0.0
    rows = max_rows if budget_s == NEVER else max(1, profile.largest(budget_s / 2, max_rows))
    return rows / profile.latency_s(rows)
