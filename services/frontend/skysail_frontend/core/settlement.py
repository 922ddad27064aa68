"""The settlement of queries: each is answered, fails, expires or is cancelled, and counted once."""

from collections.abc import Callable, Mapping, Sequence

from skysail_common.clock import Clock
from skysail_common.errors import SkysailError
from skysail_frontend.core import shedding
from skysail_frontend.core.batch import QueryError, QueryOutputs
from skysail_frontend.core.batching.policies import ShedReason
from skysail_frontend.core.coalescing import Coalescing
from skysail_frontend.core.query import Outcome, Prediction, Query, ignore_prediction
from skysail_frontend.core.statistics import Statistics
from skysail_frontend.core.version_dispatcher import VersionDispatcher

_MAX_EARLY_S = 0.005
_MAX_EARLY_SHARE = 0.1
"""Longest time by which the timer of the caller may precede the deadline: the deadline counts from
the instant at which the request was read, which is later than the instant at which it was sent."""
_ROUNDING = 0.01
"""Largest relative error of a timeout on the wire: gRPC rounds it up by at most a hundredth."""


class Settlement:
    """Settles and counts the queries of all versions."""

    def __init__(
        self,
        clock: Clock,
        statistics: Statistics,
        coalescing: Coalescing,
        versions: Mapping[str, VersionDispatcher],
        schedule_dispatch: Callable[[VersionDispatcher], None],
    ) -> None:
        """Starts without queries.

        Args:
            clock: Time.
            statistics: Counts settled queries.
            coalescing: Holds the cache, and which queries wait for the answer of another.
            versions: Dispatchers by the identity of their version.
            schedule_dispatch: Schedules the dispatch of a version for the end of this turn.
        """
        self.num_unsettled = 0
        """Number of submitted queries that are neither settled nor cancelled."""
        self.unsettled_bytes = 0
        """Size of the inputs of the unsettled queries."""
        self._clock = clock
        self._statistics = statistics
        self._coalescing = coalescing
        self._versions = versions
        self._schedule_dispatch = schedule_dispatch

    def answer_followers(
        self, leader: Query, answer: QueryOutputs | QueryError, now: float
    ) -> None:
        """Cache the answer to a leader and settle its followers, even if the leader is settled."""
        outputs = None if isinstance(answer, QueryError) else (answer.data, answer.shapes)
        version = leader.version
        # An answer of a removed version must not enter the cache of a later version of that name.
        keeps = version is not None and version.identity in self._versions
        for query in self._coalescing.complete(leader, outputs, now, keeps=keeps):
            if query.is_settled:
                continue
            if query.is_queued:
                self.dequeue(query)
            if isinstance(answer, QueryError):
                explanation = f"the model failed: {answer.error.message}"
                self.fail(query, Outcome.DEFAULT_MODEL_ERROR, explanation, answer.error, now)
            else:
                self.answer(query, Prediction(Outcome.OK, answer.data, answer.shapes), now)

    def answer(self, query: Query, prediction: Prediction, now: float) -> None:
        """Settle an unsettled query with the answer of its model."""
        self.num_unsettled -= 1
        self.unsettled_bytes -= query.input_bytes
        self._statistics.count_settled(query, query.answer(prediction, now))

    def fail(
        self, query: Query, outcome: Outcome, explanation: str, error: SkysailError, now: float
    ) -> None:
        """Settle an unsettled query with its default output or an error."""
        self._count_settled(query)
        prediction = query.fail(outcome, explanation, error, now)
        self._statistics.count_settled(query, prediction)
        self.replace_leader(query, now)

    def shed(
        self, version: VersionDispatcher, query: Query, reason: ShedReason, now: float
    ) -> None:
        """Shed a query that is not queued, for lack of time or space."""
        version.statistics.sheds[reason] += 1
        _count_late_rows(version, query)
        outcome, explanation, error = shedding.shed_outcome(version, query, reason, now)
        self.fail(query, outcome, explanation, error, now)

    def expire(self, query: Query, now: float) -> None:
        """Settle a query at its deadline, whether it is queued or in flight."""
        version = self.version_of(query)
        was_waiting = query.is_queued or query.dispatched == 0.0
        self.dequeue(query)
        if version is None or (was_waiting and not version.num_ready):
            if version is not None:
                version.statistics.sheds[ShedReason.NO_REPLICA] += 1
            self.refuse_without_replica(query, version, now)
        else:
            self.shed(version, query, ShedReason.EXPIRED, now)

    def cancel(self, query: Query) -> None:
        """Cancel a query whose caller is gone; close to the deadline the query expires instead.

        Chance decides whether the timer of the caller or the timer of this process fires first. A
        missed deadline counts as one in both cases.
        """
        if query.is_settled:
            return
        now = self._clock()
        budget_s = query.deadline - query.arrival
        early_s = max(min(_MAX_EARLY_S, _MAX_EARLY_SHARE * budget_s), _ROUNDING * budget_s)
        if now >= query.deadline - early_s:
            query.settle = ignore_prediction
            self.cancel_parts(query.parts, now)
            self.expire(query, now)
        else:
            self._discard(query, now)
            self.cancel_parts(query.parts, now)
            self._statistics.count_cancelled(query)

    def refuse_without_replica(
        self, query: Query, version: VersionDispatcher | None, now: float
    ) -> None:
        """Settle a query for which no replica is available."""
        error = shedding.no_replica_error(query, version)
        self.fail(query, Outcome.DEFAULT_NO_REPLICA, shedding.NO_MODEL, error, now)

    def settle_joined(self, query: Query, prediction: Prediction, now: float) -> None:
        """Settle a large query once all of its parts are answered, or one of them failed."""
        if query.is_settled:
            return
        parts, query.parts = query.parts, ()
        if prediction.error is None:
            self.answer(query, prediction, now)
        else:
            version = self.version_of(query)
            if prediction.outcome is Outcome.DEFAULT_DEADLINE and version is not None:
                for part in parts:
                    # The part that expired is already counted.
                    if not part.is_settled:
                        _count_late_rows(version, part)
            self.cancel_parts(parts, now)
            explanation = prediction.explanation or prediction.error.message
            self.fail(query, prediction.outcome, explanation, prediction.error, now)

    def cancel_parts(self, parts: Sequence[Query], now: float) -> None:
        """Discard the unsettled parts of a large query that is settled."""
        for part in parts:
            if not part.is_settled:
                self._discard(part, now)

    def _discard(self, query: Query, now: float) -> None:
        """Remove a query without an answer."""
        query.cancel()
        self._count_settled(query)
        self.dequeue(query)
        self.replace_leader(query, now)

    def _count_settled(self, query: Query) -> None:
        self.num_unsettled -= 1
        self.unsettled_bytes -= query.input_bytes

    def dequeue(self, query: Query) -> None:
        """Remove a query from its queue; do nothing if it is not queued."""
        if query.is_queued:
            version = self.version_of(query)
            if version is not None:
                version.queue.remove(query)

    def replace_leader(self, query: Query, now: float) -> None:
        """Replace a settled query as leader, unless its batch may still be answered."""
        if query.cache_key is None:
            return
        if query.num_in_flight and self._coalescing.leader(query) is query:
            version = self.version_of(query)
            if version is not None:
                # The dispatch requeues a follower if the batch is overdue.
                self._schedule_dispatch(version)
        else:
            self.promote_follower(query, now)

    def promote_follower(self, query: Query, now: float) -> None:
        """Queue the first follower of a query that was settled without an answer."""
        leader = self._coalescing.remove(query)
        if leader is None:
            return
        version = self.version_of(leader)
        if version is not None and version.served.num_replicas:
            version.batcher.push(leader)
            self._schedule_dispatch(version)
            return
        # A loop settles all followers: promoting each in turn would recurse once for each of them.
        for each in (leader, *self._coalescing.dissolve(leader)):
            if not each.is_settled:
                self.refuse_without_replica(each, version, now)

    def version_of(self, query: Query) -> VersionDispatcher | None:
        """Return the dispatcher of a query's version, or None if the version was removed."""
        return self._versions.get(query.version.identity) if query.version else None


def _count_late_rows(version: VersionDispatcher, query: Query) -> None:
    """Count the rows of a query as late if an idle replica would have answered them in time."""
    if version.batcher.profile.latency_s(query.rows) <= query.deadline - query.arrival:
        version.statistics.late_rows += query.rows
