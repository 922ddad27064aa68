"""The counters of the core: plain numbers, O(1) for each query."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from skysail_common.clock import NEVER
from skysail_common.errors import ModelFailed, SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_frontend.core.batching.policies import DispatchReason, ShedReason
from skysail_frontend.core.query import Prediction, Query
from skysail_frontend.core.routes import Application, ServedVersion

SECONDS: tuple[float, ...] = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of durations, dense in the range of SLOs."""

ROWS: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the sizes of batches."""

SHARES: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0)
"""Upper bounds of the used share of a budget."""

_URGENCY_WEIGHT = 0.05


class Histogram:
    """A histogram of values with fixed bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Counts by the first bound that is not below the value; the last is above all bounds."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class VersionStatistics:
    """The counters of one model version."""

    def __init__(self) -> None:
        self.queue_wait_s = Histogram(SECONDS)
        """Time in the queue of each query that was sent."""
        self.batch_rows = Histogram(ROWS)
        self.batch_wait_s = Histogram(SECONDS)
        """Time from sending to result of each batch, without the computation."""
        self.compute_s = Histogram(SECONDS)
        """Computation of each batch in the user's function, with decoding and encoding."""
        self.dispatches: Counter[DispatchReason] = Counter()
        self.sheds: Counter[ShedReason] = Counter()
        self.late_rows = 0
        """Rows not answered that an idle replica would have answered in time."""
        self.deadline_used = Histogram(SHARES)
        """Share of its budget that the most urgent query of each batch had used at the answer."""
        self._urgency: float | None = None

    def observe_answer(self, used_s: float, budget_s: float) -> None:
        """Count an answered batch by the used time and the budget of its most urgent query."""
        if budget_s <= 0:
            return
        self.deadline_used.observe(used_s / budget_s)
        urgency = 1 / budget_s
        if self._urgency is None:
            self._urgency = urgency
        else:
            self._urgency += _URGENCY_WEIGHT * (urgency - self._urgency)

    @property
    def usual_budget_s(self) -> float:
        """Usual budget of a query at its arrival; 0 if unknown.

        The harmonic mean of recent budgets, in which short budgets weigh most.
        """
        if self._urgency is None:
            return 0.0
        return 1 / self._urgency if self._urgency else NEVER


class TargetStatistics:
    """The counters of one target: an application or a model, and the version that answered."""

    def __init__(self) -> None:
        self.latency_s = Histogram(SECONDS)
        """Time from arrival to answer of each query that got a prediction or a default output."""
        self.outcomes: Counter[str] = Counter()
        """Counts by outcome, or by the status of the error."""
        self.cache: Counter[str] = Counter()
        """Counts of the queries of caching versions: `hit`, `shared` (coalesced) or `miss`."""
        self.num_cancelled = 0
        """Number of queries whose caller left before the deadline."""


class Refusals:
    """The counter of refused queries; as a context manager, it counts the error of its block."""

    def __init__(self) -> None:
        self.by_class: Counter[str] = Counter()

    def count(self, error: SkysailError) -> None:
        """Count a refused query."""
        self.by_class[type(error).__name__] += 1

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SkysailError):
            self.count(error)


TargetKey = tuple[str, ModelVersion | None]
"""Name of the application, empty for a model, and the version."""


class Statistics:
    """The counters of one frontend."""

    def __init__(self) -> None:
        self.versions: dict[ModelVersion, VersionStatistics] = {}
        self.targets: dict[TargetKey, TargetStatistics] = {}
        self.refusals = Refusals()
        """Queries that failed before they reached a model, at the ingress or later."""
        self.has_stale_routes = False
        """True while the latest routes from management are not applied."""
        self.loop_lag_s = Histogram(SECONDS)
        """Delay of the timers of the event loop."""
        self._last: tuple[Application | None, ServedVersion | None, TargetStatistics] | None = None

    def version(self, name: ModelVersion) -> VersionStatistics:
        """Return the statistics of a version."""
        found = self.versions.get(name)
        if found is None:
            found = self.versions[name] = VersionStatistics()
        return found

    def _target(self, query: Query) -> TargetStatistics:
        application, version = query.application, query.version
        last = self._last
        if last is not None and application is last[0] and version is last[1]:
            # Most queries have the same target as the previous one.
            return last[2]
        key = (application.name if application else "", version.name if version else None)
        target = self.targets.get(key)
        if target is None:
            target = TargetStatistics()
            if version is not None and version.name not in self.versions:
                return target
            self.targets[key] = target
        self._last = (application, version, target)
        return target

    def count_cache_result(self, query: Query, result: str) -> None:
        """Count the cache result of a query."""
        self._target(query).cache[result] += 1

    def count_cancelled(self, query: Query) -> None:
        """Count a cancelled query."""
        self._target(query).num_cancelled += 1

    def count_settled(self, query: Query, prediction: Prediction) -> None:
        """Count a settled query."""
        if query.is_part:
            return
        target = self._target(query)
        error = prediction.error
        if error is None:
            # The property `name` costs many times as much.
            target.outcomes[prediction.outcome._name_] += 1
            target.latency_s.observe(prediction.total_s)
        else:
            target.outcomes[error.status.name] += 1
            if not isinstance(error, ModelFailed):
                self.refusals.count(error)

    def forget(self, version: ModelVersion) -> None:
        """Remove the counters of a removed version, which bounds the number of labels."""
        self.versions.pop(version, None)
        self._drop([key for key in self.targets if key[1] == version])

    def keep_applications(self, names: Collection[str]) -> None:
        """Remove the counters of all other applications."""
        self._drop([key for key in self.targets if key[0] and key[0] not in names])

    def _drop(self, keys: Iterable[TargetKey]) -> None:
        self._last = None
        for key in keys:
            del self.targets[key]
