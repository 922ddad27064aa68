"""One model version: its queue, its replicas, and the batches in flight."""

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
"""Longest computation for which a second batch in flight is sent: it hides the transfer. After a
longer computation it only waits in the model server (measured)."""

_OVERDUE_FACTOR = 2.0
"""Multiple of its expected latency after which a batch is overdue."""
_OVERDUE_SLACK_S = 0.005
"""Time added to that, so that short batches are not overdue after a short pause."""


def _overdue_at(answer_at: float, expected_s: float) -> float:
    """Return the instant at which a batch is overdue, given its expected answer and latency."""
    return answer_at + _OVERDUE_SLACK_S + (_OVERDUE_FACTOR - 1) * expected_s


def _count_attempt(batch: Batch) -> None:
    for query in batch.queries:
        query.attempts += 1


class VersionDispatcher:
    """Sends the batches of one version when its batcher decides so and a replica is free.

    A batch that takes much longer than expected is overdue. Its queries are hedged: they are
    requeued for another replica, and the first answer counts. The slow replica receives no other
    batch until it answers. If the batch stays overdue, the replica is stalled and counts as not
    ready.
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
        """Starts with an empty queue and without replicas.

        Args:
            served: The model version.
            clock: Time.
            loop: Provides the timer.
            batch_ids: Yields the ids of batches.
            default_queue_rows: Limit of queued rows if the model sets none.
            shed: Called with each query that is shed.
            promote_follower: Called with each settled query of an overdue batch, whose followers
                need a new leader.
            statistics: Counters of the version.
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
        """Apply the present settings of the version from management."""
        self.served = served
        self.batcher.options = served.serving

    @property
    def num_ready(self) -> int:
        """Number of replicas for which `is_ready` is true."""
        return len([True for replica in self.replicas if self.is_ready(replica)])

    def is_ready(self, replica: BatchReplica) -> bool:
        """Return whether a replica accepts batches, now or after its answer, and is not stalled."""
        overdue = self._overdue.get(replica)
        return replica.is_ready and (overdue is None or not overdue.is_stalled(self._clock()))

    def refusal(self, query: Query, now: float, follower_rows: int = 0) -> ShedReason | None:
        """Return the reason to shed a new query, or None to queue it.

        Args:
            query: The new query.
            now: The present instant.
            follower_rows: Rows of coalesced queries, which count as queued.
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
        """Return the expected time until the answer to a query that arrives now."""
        free_s = min(
            (max(0.0, each.free_at - now) for each in self.replicas if each.is_ready), default=0.0
        )
        wait_s = self.batcher.expected_wait_s(self.num_ready) + free_s
        answer_s = self.latency_s(rows)
        if not answer_s:
            # While the latency is unknown, the age of the oldest batch in flight is a lower bound.
            answer_s = max((now - batch.sent for batch in self._in_flight), default=0.0)
        return wait_s + answer_s

    def latency_s(self, rows: int) -> float:
        """Return the expected latency of a query on an idle replica; 0 while it is unknown."""
        return self.batcher.profile.latency_s(min(rows, self.served.serving.max_batch_size))

    def answers_in_time(self, leader: Query, query: Query, now: float) -> bool:
        """Return whether the answer to a leader can be in time for an identical query.

        Args:
            leader: Query that is queued or in flight; it may be settled.
            query: The new query.
            now: The present instant.
        """
        if leader.is_queued:
            return not self.batcher.is_more_urgent(query, leader)
        if not leader.num_in_flight:
            return False
        answer_at = leader.answer_at
        if not answer_at:
            # The latency is unknown. If the leader is settled, its answer is already late.
            return not leader.is_settled
        is_overdue = now > _overdue_at(answer_at, answer_at - leader.dispatched)
        return not is_overdue and answer_at <= query.deadline

    @property
    def has_work(self) -> bool:
        """True if a free replica could take queries: those of the queue, or of overdue batches."""
        return bool(self.queue) or bool(self._overdue)

    def dispatch(self, now: float) -> None:
        """Send batches until the queue is empty, the batcher waits or no replica is free."""
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
                    # A query in flight is settled by its replica or at its deadline.
                    if not query.num_in_flight and not query.is_settled:
                        self._shed(self, query, reason, now)
                # Shedding one part of a large query settles the other parts.
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
        """Return the free replica that would finish first; of equal ones the first in the list."""
        # A second batch in flight hides the transfer. Waiting makes a larger batch, and the link
        # has a cost for each batch.
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
        """Send a batch and return the instant at which it becomes overdue."""
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
        """Requeue the queries of overdue batches and return when the next batch is overdue."""
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
        """Set the timer so that `dispatch` runs at an instant or before."""
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
        """Record the latency and the statistics of an answered batch.

        Args:
            batch: The batch.
            compute_s: Time in the user's function.
            wait_s: Time that the batch was queued in the model server.
            is_whole: True if no query of the batch failed. After a failure the model server
                computes the other queries again, so that the latency tells nothing.
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
        """Remove lost batches from those in flight."""
        # A replica computes batches in order, so that only the oldest can be the cause of its
        # death. An overdue batch already counted as an attempt.
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
            # The replica starts its other batch only now.
            for other, holder in self._in_flight.items():
                if holder is replica and other.expected_s:
                    other.overdue_at = _overdue_at(now + other.expected_s, other.expected_s)

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
