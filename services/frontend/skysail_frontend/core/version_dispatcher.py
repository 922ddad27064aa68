"""One model version: its queue, the replicas that empty it, and the batches under way."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from skysail_common.clock import NEVER, Clock
from skysail_common.errors import SkysailError
from skysail_frontend.core.batching.batcher import LAST_ATTEMPT, Batcher
from skysail_frontend.core.batching.policies import ShedReason
from skysail_frontend.core.query import Query
from skysail_frontend.core.routes import ServedVersion
from skysail_frontend.core.statistics import VersionStatistics

log = logging.getLogger(__name__)

_LONG_COMPUTE_S = 0.002
"""Above this a second batch in flight hides nothing and only waits (measured)."""

_OVERDUE_FACTOR = 2.0
_OVERDUE_SLACK_S = 0.005

_STALLED_FACTOR = 10.0
_MIN_STALLED_S = 5.0
"""A batch that is overdue for so long, and for so many times what it was to take, is stalled. A
pause of the machine is no stall: while one replica is left, refusing is worse than waiting."""


class QueryError:
    """Why one query of a batch has no outputs."""

    __slots__ = ("error",)

    def __init__(self, error: SkysailError) -> None:
        self.error = error


class QueryOutputs:
    """The outputs of one query of a batch, in the order of the signature."""

    __slots__ = ("data", "shapes")

    def __init__(self, data: Sequence[bytes], shapes: Sequence[tuple[int, ...]]) -> None:
        self.data = data
        self.shapes = shapes


class Batch:
    """Queries that were sent to a replica together."""

    __slots__ = ("batch_id", "expected_s", "overdue_at", "queries", "rows", "sent")

    def __init__(self, batch_id: int, queries: list[Query], sent: float) -> None:
        self.batch_id = batch_id
        self.queries = queries
        self.rows = sum([query.rows for query in queries])
        self.sent = sent
        self.expected_s = 0.0
        self.overdue_at = NEVER

    def is_stalled(self, now: float) -> bool:
        """Return whether the batch is overdue for so long that its replica may never answer."""
        return now - self.overdue_at > max(_MIN_STALLED_S, _STALLED_FACTOR * self.expected_s)


def _overdue_at(answer_at: float, expected_s: float) -> float:
    """Return when a batch is overdue that is expected at an instant and takes so long."""
    return answer_at + _OVERDUE_SLACK_S + (_OVERDUE_FACTOR - 1) * expected_s


def _count_attempt(batch: Batch) -> None:
    for query in batch.queries:
        query.attempts += 1


class BatchReplica(Protocol):
    """A replica as the core sees it."""

    container_id: str
    free_at: float
    """Instant at which it is expected to have computed all that it has; the core sets it."""

    @property
    def num_in_flight(self) -> int:
        """Batches that it has and has not answered."""
        ...

    @property
    def is_ready(self) -> bool:
        """True while batches may be sent to it."""
        ...

    def send(self, batch: Batch) -> None:
        """Send a batch; leaves in this turn, or is lost if it cannot be sent."""
        ...


class TimerHandle(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Have it not come."""
        ...


class EventLoop(Protocol):
    """What the core needs of an event loop."""

    def call_soon(self, callback: Callable[[], None]) -> object:
        """Call back at the end of this turn."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> TimerHandle:
        """Call back after `delay` seconds."""
        ...


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
        give_up: Callable[["VersionDispatcher", Query, ShedReason, float], None],
        succeed: Callable[[Query, float], None],
        statistics: VersionStatistics,
    ) -> None:
        """No query waits, and no replica is known.

        Args:
            served: The model version.
            clock: Time.
            loop: Calls back after a while.
            batch_ids: Yields ids of batches.
            default_queue_rows: Rows that may wait where the model does not say it.
            give_up: Is told of each query that will not be sent.
            succeed: Requeues what waits for a settled query whose batch is overdue.
            statistics: Counts.
        """
        self.served = served
        self.batcher = Batcher(served.serving, default_queue_rows)
        self.batcher.profile.seed(served.latencies)
        self.queue = self.batcher.queue
        self.replicas: list[BatchReplica] = []
        self.is_marked = False
        self._clock = clock
        self._loop = loop
        self._batch_ids = batch_ids
        self._give_up = give_up
        self._succeed = succeed
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

    def refusal(self, query: Query, now: float, following_rows: int = 0) -> ShedReason | None:
        """Return why a query that has just arrived is not to wait, or None if it may.

        Args:
            query: Has just arrived.
            now: The present instant.
            following_rows: Rows that wait for the answers to others.
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
        return self.batcher.refusal(query, now, num_ready, num_idle, following_rows)

    def wait_s(self, rows: int, now: float) -> float:
        """Return in how long a query that comes now is expected to be answered."""
        free_s = min(
            (max(0.0, each.free_at - now) for each in self.replicas if each.is_ready), default=0.0
        )
        wait_s = self.batcher.expected_wait_s(self.num_ready) + free_s
        answer_s = self.answer_s(rows)
        if not answer_s:
            # Nothing is known but how long what was sent takes already.
            answer_s = max((now - batch.sent for batch in self._in_flight), default=0.0)
        return wait_s + answer_s

    def answer_s(self, rows: int) -> float:
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
            return not self.batcher.is_before(query, leader)
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
        wake_at = self._ask_others_for_overdue(now)
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
                        self._give_up(self, query, reason, now)
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
        self._wake(wake_at, now)

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

    def _ask_others_for_overdue(self, now: float) -> float:
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
                        self._succeed(query, now)
                    elif query.attempts <= LAST_ATTEMPT:
                        self.batcher.push_again(query)
        return next_at

    def _wake(self, instant: float, now: float) -> None:
        """See to it that `dispatch` is called at an instant, if nothing calls it before."""
        if instant < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = instant
            self._timer = self._loop.call_later(max(0.0, instant - now), self._at_timer)

    def _at_timer(self) -> None:
        self._timer, self._timer_at = None, NEVER
        try:
            self.dispatch(self._clock())
        except Exception:
            log.exception("dispatch failed", extra={"version": self.served.name})

    def answered(
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
        self._landed(batch, now)
        self.statistics.compute_s.observe(compute_s)
        self.statistics.batch_wait_s.observe(max(0.0, now - batch.sent - compute_s))
        head = batch.queries[0]
        budget_s = head.deadline - head.arrival
        self.statistics.answered(now - head.arrival, budget_s)
        self._compute_s += 0.1 * (compute_s - self._compute_s)
        self.batcher.returns.answered(batch.rows, batch.expected_s, now)
        if is_whole:
            latency_s = max(compute_s, now - batch.sent - wait_s)
            self.batcher.observe(batch.rows, latency_s, budget_s, now)

    def lost(self, batches: Sequence[Batch], has_died: bool, now: float) -> None:
        """Forget batches that will not be answered."""
        # A replica computes in order: only the oldest batch can be what ended it. One that was
        # overdue counted as an attempt then.
        if batches and has_died and batches[0] not in self._overdue.values():
            _count_attempt(batches[0])
        for batch in batches:
            self._landed(batch, now)

    def _landed(self, batch: Batch, now: float) -> None:
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
