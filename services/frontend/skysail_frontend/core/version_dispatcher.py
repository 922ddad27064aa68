"""One model version: its queue, the replicas that empty it, and the batches under way."""

import logging
from collections.abc import Callable, Iterator, Sequence

from skysail_common.clock import NEVER, Clock
from skysail_frontend.core.batch import Batch, BatchReplica
from skysail_frontend.core.batching.batcher import LAST_ATTEMPT, Batcher
from skysail_frontend.core.batching.policies import ShedReason
from skysail_frontend.core.event_loop import EventLoop, TimerHandle
from skysail_frontend.core.query import Query
from skysail_frontend.core.routes import ServedVersion
from skysail_frontend.core.statistics import VersionStatistics

log = logging.getLogger(__name__)

_LONG_COMPUTE_S = 0.002
"""Above this a second batch in flight hides nothing and only waits (measured)."""

_OVERDUE_FACTOR = 2.0
_OVERDUE_SLACK_S = 0.005


def _overdue_at(answer_at: float, expected_s: float) -> float:
    """Return when a batch is overdue that is expected at an instant and takes so long."""
    return answer_at + _OVERDUE_SLACK_S + (_OVERDUE_FACTOR - 1) * expected_s


def _count_attempt(batch: Batch) -> None:
    for query in batch.queries:
        query.attempts += 1


class VersionDispatcher:
    """Sends batches when the batcher says so and a replica is free.

    A batch that takes much longer than such batches do is overdue: its replica gets no other until
    it answers, and what it holds is asked of another replica too. The first answer counts. If it
    stays overdue, the replica is stalled and counts as one that is not ready.
    """

    def __init__(
        self,
        served: ServedVersion,
        clock: Clock,
        loop: EventLoop,
        batch_ids: Iterator[int],
        default_queue_rows: int,
        shed: Callable[["VersionDispatcher", Query, ShedReason, float], None],
        promote_follower: Callable[[Query, float], None],
        statistics: VersionStatistics,
    ) -> None:
        """No query waits, and no replica is known.

        Args:
            served: The model version.
            clock: Time.
            loop: Calls back after a while.
            batch_ids: Yields ids of batches.
            default_queue_rows: Rows that may wait where the model does not say it.
            shed: Is told of each query that will not be sent.
            promote_follower: Requeues what waits for a settled query whose batch is overdue.
            statistics: Counts.
        """
        self.served = served
        self.batcher = Batcher(served.serving, default_queue_rows)
        self.batcher.profile.seed(served.latencies)
        self.queue = self.batcher.queue
        self.replicas: list[BatchReplica] = []
        self.is_scheduled = False
        self._clock = clock
        self._loop = loop
        self._batch_ids = batch_ids
        self._shed = shed
        self._promote_follower = promote_follower
        self.statistics = statistics
        self._compute_s = 0.0
        self._in_flight: dict[Batch, BatchReplica] = {}
        self._overdue: dict[BatchReplica, Batch] = {}
        self._timer: TimerHandle | None = None
        self._timer_at = NEVER

    def update(self, served: ServedVersion) -> None:
        """Take over what management says now."""
        self.served = served
        self.batcher.options = served.serving

    @property
    def num_ready(self) -> int:
        """Replicas that take batches, now or once they have answered; not those that stalled."""
        return len([True for replica in self.replicas if self.is_ready(replica)])

    def is_ready(self, replica: BatchReplica) -> bool:
        """Return whether a replica takes batches, now or once it has answered."""
        overdue = self._overdue.get(replica)
        return replica.is_ready and (overdue is None or not overdue.is_stalled(self._clock()))

    def refusal(self, query: Query, now: float, follower_rows: int = 0) -> ShedReason | None:
        """Return why a query that has just arrived is not to wait, or None if it may.

        Args:
            query: Has just arrived.
            now: The present instant.
            follower_rows: Rows that wait for the answers to others.
        """
        num_ready = num_idle = num_overdue = 0
        overdue = self._overdue
        for replica in self.replicas:
            if replica.is_ready:
                if overdue and replica in overdue:
                    num_overdue += 1
                else:
                    num_ready += 1
                    num_idle += not replica.num_in_flight
        if num_overdue and not num_ready:
            num_ready = self.num_ready
            if not num_ready:
                return ShedReason.NO_REPLICA
        return self.batcher.refusal(query, now, num_ready, num_idle, follower_rows)

    def wait_s(self, rows: int, now: float) -> float:
        """Return in how long a query that comes now is expected to be answered."""
        free_s = min(
            (max(0.0, each.free_at - now) for each in self.replicas if each.is_ready), default=0.0
        )
        wait_s = self.batcher.expected_wait_s(self.num_ready) + free_s
        answer_s = self.latency_s(rows)
        if not answer_s:
            # Nothing is known but how long what was sent takes already.
            answer_s = max((now - batch.sent for batch in self._in_flight), default=0.0)
        return wait_s + answer_s

    def latency_s(self, rows: int) -> float:
        """Return how long an idle replica takes for a query; 0 while nothing is known."""
        return self.batcher.profile.latency_s(min(rows, self.served.serving.max_batch_size))

    def answers_in_time(self, leader: Query, query: Query, now: float) -> bool:
        """Return whether the answer to a query can be in time for another with the same inputs.

        Args:
            leader: Waits or is with a replica, perhaps settled.
            query: Has just arrived.
            now: The present instant.
        """
        if leader.is_queued:
            return not self.batcher.is_more_urgent(query, leader)
        if not leader.num_in_flight:
            return False
        answer_at = leader.answer_at
        if not answer_at:
            # Nothing is known of how long it takes: a settled query shows that it takes too long.
            return not leader.is_settled
        is_overdue = now > _overdue_at(answer_at, answer_at - leader.dispatched)
        return not is_overdue and answer_at <= query.deadline

    def dispatch(self, now: float) -> None:
        """Send batches while the batcher says so and a replica is free."""
        wake_at = self._hedge_slow_batches(now)
        num_ready = len(
            [True for each in self.replicas if each.is_ready and each not in self._overdue]
        )
        while len(self.queue):
            replica = self._free_replica(now)
            if replica is None:
                break
            start_at = max(now, replica.free_at) if replica.num_in_flight else now
            decision = self.batcher.decide(now, start_at, num_ready)
            queries = decision.batch
            if decision.shed:
                for query, reason in decision.shed:
                    # What another replica still has is answered by it, or ends at its deadline.
                    if not query.num_in_flight and not query.is_settled:
                        self._shed(self, query, reason, now)
                # One part of a large query that is given up takes the others along.
                queries = [query for query in queries if not query.is_settled]
                if decision.batch and not queries:
                    continue
            if not queries:
                wake_at = min(wake_at, decision.wait_until)
                break
            batch = Batch(next(self._batch_ids), queries, now)
            self.statistics.dispatches[decision.reason] += 1
            wake_at = min(wake_at, self._send(batch, replica, start_at, now))
        self._schedule_wake_up(wake_at, now)

    def _free_replica(self, now: float) -> BatchReplica | None:
        """Return the replica that would be done first; the first of equals, to fill that one."""
        # A second batch in flight hides the transfer, but waiting makes a larger one: what a link
        # costs is paid for each batch.
        is_full = self.queue.num_rows >= self.served.serving.max_batch_size
        limit = 2 if is_full and self._compute_s <= _LONG_COMPUTE_S else 1
        best: BatchReplica | None = None
        best_rank = (NEVER, limit)
        overdue = self._overdue
        for replica in self.replicas:
            num_in_flight = replica.num_in_flight
            if num_in_flight >= limit or not replica.is_ready or replica in overdue:
                continue
            rank = (max(now, replica.free_at) if num_in_flight else now, num_in_flight)
            if rank < best_rank:
                best, best_rank = replica, rank
        return best

    def _send(self, batch: Batch, replica: BatchReplica, start_at: float, now: float) -> float:
        """Send a batch and return the instant at which it will be overdue."""
        queue_wait_s = self.statistics.queue_wait_s
        expected_s = batch.expected_s = self.batcher.profile.latency_s(batch.rows)
        answer_at = 0.0
        replica.free_at = start_at + expected_s
        if expected_s:
            answer_at = replica.free_at
            batch.overdue_at = _overdue_at(answer_at, expected_s)
        for query in batch.queries:
            query.dispatched = now
            query.answer_at = answer_at
            query.num_in_flight += 1
            queue_wait_s.observe(now - query.arrival)
        self.statistics.batch_rows.observe(batch.rows)
        self._in_flight[batch] = replica
        replica.send(batch)
        return batch.overdue_at

    def _hedge_slow_batches(self, now: float) -> float:
        """Requeue queries of overdue batches and return when the next batch will be overdue."""
        next_at = NEVER
        overdue = self._overdue
        for batch, replica in self._in_flight.items():
            if batch.overdue_at > now:
                next_at = min(next_at, batch.overdue_at)
            elif replica not in overdue:
                overdue[replica] = batch
                _count_attempt(batch)
        if overdue and any(each.is_ready and each not in overdue for each in self.replicas):
            for batch in overdue.values():
                for query in batch.queries:
                    if query.num_in_flight != 1 or query.is_queued:
                        continue
                    if query.is_settled:
                        self._promote_follower(query, now)
                    elif query.attempts <= LAST_ATTEMPT:
                        self.batcher.requeue(query)
        return next_at

    def _schedule_wake_up(self, instant: float, now: float) -> None:
        """See to it that `dispatch` is called at an instant, if nothing calls it before."""
        if instant < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = instant
            self._timer = self._loop.call_later(max(0.0, instant - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, NEVER
        try:
            self.dispatch(self._clock())
        except Exception:
            log.exception("dispatch failed", extra={"version": self.served.name})

    def complete_batch(
        self, batch: Batch, compute_s: float, wait_s: float, *, is_whole: bool, now: float
    ) -> None:
        """Learn from a batch that was answered.

        Args:
            batch: The batch.
            compute_s: Time in the user's function.
            wait_s: Time that the batch waited in the model server.
            is_whole: True where no query of it failed; the others were computed again then.
            now: The present instant.
        """
        self._remove_in_flight(batch, now)
        self.statistics.compute_s.observe(compute_s)
        self.statistics.batch_wait_s.observe(max(0.0, now - batch.sent - compute_s))
        head = batch.queries[0]
        budget_s = head.deadline - head.arrival
        self.statistics.observe_answer(now - head.arrival, budget_s)
        self._compute_s += 0.1 * (compute_s - self._compute_s)
        self.batcher.closed_loop.observe_result(batch.rows, batch.expected_s, now)
        if is_whole:
            latency_s = max(compute_s, now - batch.sent - wait_s)
            self.batcher.observe(batch.rows, latency_s, budget_s, now)

    def remove_lost(self, batches: Sequence[Batch], has_died: bool, now: float) -> None:
        """Forget batches that will not be answered."""
        # A replica computes in order: only the oldest batch can be what ended it. One that was
        # overdue counted as an attempt then.
        if batches and has_died and batches[0] not in self._overdue.values():
            _count_attempt(batches[0])
        for batch in batches:
            self._remove_in_flight(batch, now)

    def _remove_in_flight(self, batch: Batch, now: float) -> None:
        replica = self._in_flight.pop(batch, None)
        if replica is None:
            return
        for query in batch.queries:
            query.num_in_flight -= 1
        if self._overdue.get(replica) is batch:
            del self._overdue[replica]
            # What the replica has besides begins only now.
            for other, holder in self._in_flight.items():
                if holder is replica and other.expected_s:
                    other.overdue_at = _overdue_at(now + other.expected_s, other.expected_s)

    def stop(self) -> None:
        """Call back no more."""
        if self._timer is not None:
            self._timer.cancel()
