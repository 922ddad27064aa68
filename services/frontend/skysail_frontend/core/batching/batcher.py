"""The batches of one model version: when to send them, with which queries, and which to shed."""

from math import ceil

from skysail_common.clock import NEVER
from skysail_common.serving_options import ServingOptions
from skysail_frontend.core.batching.arrival_rate import ArrivalRate
from skysail_frontend.core.batching.closed_loop import ClosedLoop
from skysail_frontend.core.batching.deadline_queue import DeadlineQueue
from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_frontend.core.batching.policies import (
    BatchPlan,
    DispatchReason,
    ShedReason,
    Situation,
    make_policy,
)
from skysail_frontend.core.query import DEFAULT_PRIORITY, Query

LAST_ATTEMPT = 2
"""Number of failed attempts after which a query is sent alone, because it may kill replicas."""

MAX_BATCH_BYTES = 64 * 1024 * 1024
"""Largest size of the inputs of a batch; a query that is larger is sent alone."""

_PROBE_AFTER_S = 0.25
"""Time without any batch after which a hopeless query is sent as a probe, because the learned
latencies may be wrong and only a batch can correct them."""


class BatchDecision:
    """The decision on a queue: which queries to shed, and whether to send a batch or to wait."""

    __slots__ = ("batch", "reason", "shed", "wait_until")

    def __init__(self) -> None:
        self.shed: list[tuple[Query, ShedReason]] = []
        """Queries to shed, which have left the queue."""
        self.batch: list[Query] = []
        """Queries to send now, most urgent first; empty to wait."""
        self.reason = DispatchReason.EAGER
        """Why the batch is sent now."""
        self.wait_until = NEVER
        """Instant at which to decide again unless a query or an answer arrives before."""


class Batcher:
    """The queue of a model version and the policy that empties it."""

    def __init__(self, options: ServingOptions, default_queue_rows: int = 10_000) -> None:
        """Starts with an empty queue and an empty latency profile.

        Args:
            options: Serving options of the version.
            default_queue_rows: Limit of queued rows if the options set none.
        """
        self.queue = DeadlineQueue()
        self.profile = LatencyProfile()
        self.rate = ArrivalRate()
        self.closed_loop = ClosedLoop()
        self._default_queue_rows = default_queue_rows
        self._dispatched = 0.0
        self._apply(options)

    @property
    def options(self) -> ServingOptions:
        """Serving options of the version."""
        return self._options

    @options.setter
    def options(self, options: ServingOptions) -> None:
        if options != self._options:
            self._apply(options)

    def _apply(self, options: ServingOptions) -> None:
        self._options = options
        self._policy = make_policy(options, self.profile, self.rate, self.closed_loop)
        self.max_queue_rows = options.max_queue_size or self._default_queue_rows
        """Limit of queued rows."""

    def push(self, query: Query) -> None:
        """Queue a new query and count its arrival."""
        self.rate.observe(query.rows, query.arrival)
        self.closed_loop.observe_arrival(query.rows, query.arrival)
        self.requeue(query)

    def requeue(self, query: Query) -> None:
        """Requeue a query whose batch was lost."""
        self.queue.push(query, self._offset_s(query) if query.priority != DEFAULT_PRIORITY else 0.0)

    def _offset_s(self, query: Query) -> float:
        return (query.priority - DEFAULT_PRIORITY) * self._options.priority_step_s

    def is_more_urgent(self, query: Query, other: Query) -> bool:
        """Return whether a query is more urgent: by its deadline, shifted by its priority."""
        if query.priority == other.priority:
            return query.deadline < other.deadline
        return query.deadline + self._offset_s(query) < other.deadline + self._offset_s(other)

    def observe(self, rows: int, latency_s: float, budget_s: float, now: float) -> None:
        """Learn the latency of a batch.

        Args:
            rows: Rows of the batch.
            latency_s: Time from sending to result, without the wait for other batches.
            budget_s: Budget of the most urgent query at its arrival.
            now: The present instant.
        """
        self.profile.observe(rows, latency_s, now)
        self._policy.observe(rows, latency_s, budget_s)

    def refusal(
        self,
        query: Query,
        now: float,
        num_replicas: int,
        num_idle: int = 0,
        follower_rows: int = 0,
    ) -> ShedReason | None:
        """Return the reason to shed a new query, or None to queue it.

        Args:
            query: The new query.
            now: The present instant.
            num_replicas: Number of ready replicas.
            num_idle: Number of ready replicas without a batch in flight.
            follower_rows: Rows of coalesced queries, which count as queued.
        """
        if query.deadline <= now:
            return ShedReason.EXPIRED
        num_rows = self.queue.num_rows
        if num_rows + query.rows + follower_rows > self.max_queue_rows and (
            num_rows or follower_rows
        ):
            return ShedReason.QUEUE_FULL
        if num_replicas and not self._policy.admits(query, num_rows, num_replicas, num_idle):
            # The learned latencies may be wrong if no batch was sent recently: see `decide`.
            return ShedReason.HOPELESS if now - self._dispatched <= _PROBE_AFTER_S else None
        return None

    def is_full(self, query: Query, follower_rows: int) -> bool:
        """Return whether the queue has no room for a query; an empty queue has room for any.

        Args:
            query: The new query.
            follower_rows: Rows of coalesced queries, which count as queued.
        """
        num_rows = self.queue.num_rows + follower_rows
        return num_rows > 0 and num_rows + query.rows > self.max_queue_rows

    def expected_wait_s(self, num_replicas: int) -> float:
        """Return the time that idle replicas need to compute the queue."""
        rows, max_rows = self.queue.num_rows, self._options.max_batch_size
        batch_s = self.profile.latency_s(min(rows, max_rows))
        return batch_s * ceil(rows / max_rows) / max(1, num_replicas)

    def decide(self, now: float, start_at: float, num_replicas: int) -> BatchDecision:
        """Decide on the queue when a replica is free.

        Args:
            now: The present instant.
            start_at: Instant at which the replica would start a batch.
            num_replicas: Number of ready replicas; at least 1.
        """
        queue = self.queue
        decision = BatchDecision()
        while (head := queue.peek()) is not None:
            if head.deadline <= now:
                decision.shed.append((head, ShedReason.EXPIRED))
                queue.pop()
                continue
            situation = Situation(now, start_at, num_replicas, queue.num_rows)
            plan = self._policy.plan(head, situation)
            if plan is None:
                if now - self._dispatched > _PROBE_AFTER_S:
                    # The learned latencies may have become wrong, which only a batch can show.
                    plan = BatchPlan(head.rows, now, DispatchReason.PROBE)
                else:
                    decision.shed.append((head, ShedReason.HOPELESS))
                    queue.pop()
                    continue
            plan = self._apply_model_options(plan, head, situation)
            if plan.hold_until > now:
                decision.wait_until = plan.hold_until
            else:
                decision.batch = self._take_batch(plan.max_rows, now, decision.shed)
                decision.reason = plan.reason
                self._dispatched = now
            break
        return decision

    def _apply_model_options(self, plan: BatchPlan, head: Query, situation: Situation) -> BatchPlan:
        """Return the plan as changed by the preferred sizes and the queue delay of the model."""
        options = self._options
        if options.preferred_batch_sizes and plan.reason is not DispatchReason.PROBE:
            rows = min(plan.max_rows, situation.num_rows)
            for size in reversed(options.preferred_batch_sizes):
                if head.rows <= size <= rows:
                    return BatchPlan(size, situation.now, DispatchReason.PREFERRED)
        if options.max_queue_delay_s is not None:
            # The delay must not make a query late that would be in time without it.
            latest = head.deadline - self.profile.latency_s(max(head.rows, situation.num_rows))
            until = min(head.arrival + options.max_queue_delay_s, latest)
            is_other_size = options.preferred_batch_sizes and situation.num_rows < plan.max_rows
            if plan.hold_until > until or (
                is_other_size and plan.hold_until <= situation.now < until
            ):
                return BatchPlan(plan.max_rows, until, DispatchReason.DELAY)
        return plan

    def _take_batch(
        self, max_rows: int, now: float, shed: list[tuple[Query, ShedReason]]
    ) -> list[Query]:
        """Remove the queries of a batch from the queue and return them, most urgent first.

        Returns:
            At least one query. Several have at most `max_rows` rows and `MAX_BATCH_BYTES` together.
        """
        queue = self.queue
        batch: list[Query] = []
        rows = size = 0
        while (head := queue.peek()) is not None:
            if head.deadline <= now:
                # A query of a higher priority but a later deadline was before it.
                queue.pop()
                shed.append((head, ShedReason.EXPIRED))
                continue
            if batch and (
                rows + head.rows > max_rows
                or size + head.input_bytes > MAX_BATCH_BYTES
                or head.attempts >= LAST_ATTEMPT
            ):
                break
            queue.pop()
            batch.append(head)
            rows += head.rows
            size += head.input_bytes
            if head.attempts >= LAST_ATTEMPT:
                break
        return batch
