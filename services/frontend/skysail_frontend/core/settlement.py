"""How queries end: answered, given up, expired or cancelled; each settles once and is counted once."""

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
"""Longest time before a deadline at which the timer of the caller may end its call: the deadline
counts from when the request was read, which is later than when it was sent."""
_ROUNDING = 0.01
"""gRPC rounds a time-out up on the wire, by a hundredth at most."""


class Settlement:
    """Ends the queries of all versions."""

    def __init__(
        self,
        clock: Clock,
        statistics: Statistics,
        coalescing: Coalescing,
        versions: Mapping[str, VersionDispatcher],
        schedule_dispatch: Callable[[VersionDispatcher], None],
    ) -> None:
        """No query is there yet.

        Args:
            clock: Time.
            statistics: Counts.
            coalescing: Knows which queries wait for the answers to others.
            versions: Where queries may wait, by identity.
            schedule_dispatch: Makes a version form batches at the end of this turn.
        """
        self.num_unsettled = 0
        """Queries that were submitted and neither settled nor cancelled."""
        self.unsettled_bytes = 0
        """Their inputs."""
        self._clock = clock
        self._statistics = statistics
        self._coalescing = coalescing
        self._versions = versions
        self._schedule_dispatch = schedule_dispatch

    def answer_followers(
        self, leader: Query, answer: QueryOutputs | QueryError, now: float
    ) -> None:
        """Keep an answer and give it to all that wait for the same, even if it comes late."""
        outputs = None if isinstance(answer, QueryError) else (answer.data, answer.shapes)
        version = leader.version
        # What comes after its version is gone would answer for the next of that name.
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
        """Settle a query that waits, with an answer of its model."""
        self.num_unsettled -= 1
        self.unsettled_bytes -= query.input_bytes
        self._statistics.count_settled(query, query.answer(prediction, now))

    def fail(
        self, query: Query, outcome: Outcome, explanation: str, error: SkysailError, now: float
    ) -> None:
        """Settle a query that waits, without an answer of its model."""
        self._count_settled(query)
        prediction = query.fail(outcome, explanation, error, now)
        self._statistics.count_settled(query, prediction)
        self.replace_leader(query, now)

    def shed(
        self, version: VersionDispatcher, query: Query, reason: ShedReason, now: float
    ) -> None:
        """Give up a query that waits no longer, for lack of time or room."""
        version.statistics.sheds[reason] += 1
        _count_late_rows(version, query)
        outcome, explanation, error = shedding.shed_outcome(version, query, reason, now)
        self.fail(query, outcome, explanation, error, now)

    def expire(self, query: Query, now: float) -> None:
        """Give a query up at its deadline, wherever it is."""
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
        """End a query whose caller went away; at its deadline that is an expiry.

        Whether the caller's own timer or this one is the first is chance, and a missed deadline
        counts as one either way.
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
        """Give up a query that no replica could be asked."""
        error = shedding.no_replica_error(query, version)
        self.fail(query, Outcome.DEFAULT_NO_REPLICA, shedding.NO_MODEL, error, now)

    def settle_joined(self, query: Query, prediction: Prediction, now: float) -> None:
        """Settle a large query, once all parts are answered or one is given up."""
        if query.is_settled:
            return
        parts, query.parts = query.parts, ()
        if prediction.error is None:
            self.answer(query, prediction, now)
        else:
            version = self.version_of(query)
            if prediction.outcome is Outcome.DEFAULT_DEADLINE and version is not None:
                for part in parts:
                    # The part that expired is counted.
                    if not part.is_settled:
                        _count_late_rows(version, part)
            self.cancel_parts(parts, now)
            explanation = prediction.explanation or prediction.error.message
            self.fail(query, prediction.outcome, explanation, prediction.error, now)

    def cancel_parts(self, parts: Sequence[Query], now: float) -> None:
        """End the parts of a large query that has ended."""
        for part in parts:
            if not part.is_settled:
                self._discard(part, now)

    def _discard(self, query: Query, now: float) -> None:
        """End a query without an answer."""
        query.cancel()
        self._count_settled(query)
        self.dequeue(query)
        self.replace_leader(query, now)

    def _count_settled(self, query: Query) -> None:
        self.num_unsettled -= 1
        self.unsettled_bytes -= query.input_bytes

    def dequeue(self, query: Query) -> None:
        """Take a query out of its queue, if it waits there."""
        if query.is_queued:
            version = self.version_of(query)
            if version is not None:
                version.queue.remove(query)

    def replace_leader(self, query: Query, now: float) -> None:
        """Let another lead in the place of a query that ended, unless its answer may still come."""
        if query.cache_key is None:
            return
        if query.num_in_flight and self._coalescing.leader(query) is query:
            version = self.version_of(query)
            if version is not None:
                # Its batch may be overdue, which the version finds out.
                self._schedule_dispatch(version)
        else:
            self.promote_follower(query, now)

    def promote_follower(self, query: Query, now: float) -> None:
        """Requeue the next of those that wait for the answer to a query that ended without one."""
        leader = self._coalescing.remove(query)
        if leader is None:
            return
        version = self.version_of(leader)
        if version is not None and version.served.num_replicas:
            version.batcher.push(leader)
            self._schedule_dispatch(version)
            return
        # All at once: where each refusal found the next, there would be no end of the stack.
        for each in (leader, *self._coalescing.dissolve(leader)):
            if not each.is_settled:
                self.refuse_without_replica(each, version, now)

    def version_of(self, query: Query) -> VersionDispatcher | None:
        """Return the version that a query is for, or None if it is gone."""
        return self._versions.get(query.version.identity) if query.version else None


def _count_late_rows(version: VersionDispatcher, query: Query) -> None:
    """Count the rows of a query that a free replica would have answered in time."""
    if version.batcher.profile.latency_s(query.rows) <= query.deadline - query.arrival:
        version.statistics.late_rows += query.rows
