"""What the core counts: plain numbers, O(1) for each query, read by whoever exports them."""

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
"""Upper bounds for durations, dense where SLOs are."""

ROWS: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds for sizes of batches."""


SHARES: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0)
"""Upper bounds for shares of the time that a query has."""

_URGENCY_WEIGHT = 0.05


class Histogram:
    """How often a value fell between which bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By the first bound that is not below the value; the last is beyond all."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class VersionStatistics:
    """Of one model version."""

    def __init__(self) -> None:
        self.queue_wait_s = Histogram(SECONDS)
        """Of each query that was sent."""
        self.batch_rows = Histogram(ROWS)
        self.batch_wait_s = Histogram(SECONDS)
        """Of each batch: from its sending to its result, without the computing."""
        self.compute_s = Histogram(SECONDS)
        """Of each batch: in the user's function, with decoding and encoding."""
        self.dispatches: Counter[DispatchReason] = Counter()
        self.sheds: Counter[ShedReason] = Counter()
        self.late_rows = 0
        """Rows given up that a free replica would have answered in time."""
        self.deadline_used = Histogram(SHARES)
        """Of each batch: share of its time that its most urgent query had used at the answer."""
        self._urgency: float | None = None

    def observe_answer(self, used_s: float, budget_s: float) -> None:
        """Count a batch, by the time of its most urgent query that is used, and that it had."""
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
        """Time that queries have when they arrive; 0 where not known.

        The harmonic mean of the latest: those that have little of it count most.
        """
        if self._urgency is None:
            return 0.0
        return 1 / self._urgency if self._urgency else NEVER


class TargetStatistics:
    """Of one application, or of a model that was addressed itself, by version."""

    def __init__(self) -> None:
        self.latency_s = Histogram(SECONDS)
        """From arrival to answer, of each query that was answered, by a default too."""
        self.outcomes: Counter[str] = Counter()
        """By the outcome or, where there was no answer, by the status of the error."""
        self.cache: Counter[str] = Counter()
        """Of queries whose version caches: `hit`, `shared` with one under way, or `miss`."""
        self.num_cancelled = 0
        """Queries whose callers went away before their deadline."""


class Refusals:
    """Counts what is refused; in a `with` block, the error that ends it."""

    def __init__(self) -> None:
        self.by_class: Counter[str] = Counter()

    def count(self, error: SkysailError) -> None:
        """Count a query that is refused."""
        self.by_class[type(error).__name__] += 1

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SkysailError):
            self.count(error)


TargetKey = tuple[str, ModelVersion | None]
"""Name of an application, or nothing, and the version."""


class Statistics:
    """Everything that one frontend counts."""

    def __init__(self) -> None:
        self.versions: dict[ModelVersion, VersionStatistics] = {}
        self.targets: dict[TargetKey, TargetStatistics] = {}
        self.refusals = Refusals()
        """Queries that ended in an error before a model saw them, at a door or later."""
        self.has_stale_routes = False
        """True while what management sent last could not be applied."""
        self.loop_lag_s = Histogram(SECONDS)
        """How much later than asked for the event loop called back."""
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
            # Most queries are like the one before.
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
        """Count whether the cache knew a query."""
        self._target(query).cache[result] += 1

    def count_cancelled(self, query: Query) -> None:
        """Count a query whose caller went away."""
        self._target(query).num_cancelled += 1

    def count_settled(self, query: Query, prediction: Prediction) -> None:
        """Count a query that was answered."""
        if query.is_part:
            return
        target = self._target(query)
        error = prediction.error
        if error is None:
            # `name` is a property, at many times the cost.
            target.outcomes[prediction.outcome._name_] += 1
            target.latency_s.observe(prediction.total_s)
        else:
            target.outcomes[error.status.name] += 1
            if not isinstance(error, ModelFailed):
                self.refusals.count(error)

    def forget(self, version: ModelVersion) -> None:
        """Count no more for a version that is gone, so that labels do not pile up."""
        self.versions.pop(version, None)
        self._drop([key for key in self.targets if key[1] == version])

    def keep_applications(self, names: Collection[str]) -> None:
        """Forget all other applications."""
        self._drop([key for key in self.targets if key[0] and key[0] not in names])

    def _drop(self, keys: Iterable[TargetKey]) -> None:
        self._last = None
        for key in keys:
            del self.targets[key]
