"""Batching policies: the largest size of the next batch, and the time to hold it for more rows.

Each policy is a pure decision; `docs/batching.md` compares them.
"""

import enum
from typing import NamedTuple, Protocol

from skysail_common.clock import NEVER
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_frontend.core.batching.arrival_rate import ArrivalRate
from skysail_frontend.core.batching.closed_loop import ClosedLoop
from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_frontend.core.query import Query

_HEADROOM = 1.25
"""Multiple of the arrival rate for which batches are large enough."""

_PATIENCE = 0.9
"""Largest part of its budget that a query may have used at the end of a batch that is held."""

_MIN_GAIN = 1.1
"""Least throughput that holding for returns must promise, relative to sending at once."""

_MAX_KNOWN = 256
"""Most entries of the table of useful batch sizes."""
_SHARE_OF_ONE = 0.75
"""Part of the budget that a batch of a single replica may take."""
_OPTIMISM = 0.88
"""Factor on the predicted time of a new query: only a query that is certain to be late is shed on
arrival, because any other may profit from queries that are shed."""

_AIMD_INCREASE_ROWS = 2
_AIMD_DECREASE = 0.9
_AIMD_BELOW = 0.9


class DispatchReason(enum.Enum):
    """Why a batch was sent when it was."""

    FULL = "full"
    """With more rows the batch would be late."""
    TARGET = "target"
    """The batch is large enough for the replicas to keep up with the arrivals."""
    FRONTRUN = "frontrun"
    """A larger batch that is sent later would be late."""
    SINGLE_REPLICA = "single_replica"
    """There is one replica, for which a longer hold gains nothing."""
    EAGER = "eager"
    """The policy does not hold batches."""
    DELAY = "delay"
    """The queue delay of the model has passed."""
    PREFERRED = "preferred"
    """The batch has a size that the model prefers."""
    PROBE = "probe"
    """Every query is hopeless by the learned latencies; one tests whether they still hold."""


class ShedReason(enum.Enum):
    """Why a query was shed."""

    EXPIRED = "expired"
    """The deadline passed while the query was queued."""
    HOPELESS = "hopeless"
    """The deadline would have passed before the end of the batch."""
    QUEUE_FULL = "queue_full"
    """Too many rows were queued."""
    MEMORY_FULL = "memory_full"
    """The inputs of unsettled queries took too much memory."""
    NO_REPLICA = "no_replica"
    """No replica was ready."""


class BatchPlan(NamedTuple):
    """The plan for the next batch."""

    max_rows: int
    """Largest number of rows of the batch."""
    hold_until: float
    """Instant until which the batch is held for more queries; one in the past for no hold."""
    reason: DispatchReason
    """Why the batch is sent at that instant."""


class Situation(NamedTuple):
    """The state on which a policy decides."""

    now: float
    start_at: float
    """Instant at which the replica would start the batch."""
    num_replicas: int
    num_rows: int
    """Number of queued rows."""


class BatchSizePolicy(Protocol):
    """Decides on the next batch of one model version."""

    def admits(self, query: Query, num_rows: int, num_replicas: int, num_idle: int = 0) -> bool:
        """Return whether a new query can be in time.

        Args:
            query: The new query.
            num_rows: Number of queued rows.
            num_replicas: Number of ready replicas.
            num_idle: Number of ready replicas without a batch in flight.
        """
        ...

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Return the plan for a batch that starts with `head`, or None if `head` is hopeless."""
        ...

    def observe(self, rows: int, latency_s: float, budget_s: float) -> None:
        """Learn from a batch: its rows, its latency and the budget of its most urgent query."""
        ...


class EagerPolicy:
    """A policy that sends the queue as soon as a replica is free; the base of the others.

    It learns nothing, and sheds only queries that are expired.
    """

    def __init__(self, options: ServingOptions) -> None:
        self._options = options

    def admits(self, query: Query, num_rows: int, num_replicas: int, num_idle: int = 0) -> bool:
        """Admit every query."""
        return True

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Send at once."""
        return BatchPlan(self._options.max_batch_size, situation.now, DispatchReason.EAGER)

    def observe(self, rows: int, latency_s: float, budget_s: float) -> None:
        """Learn nothing."""


class FixedPolicy(EagerPolicy):
    """A policy of a fixed maximum and a fixed delay, as in TF-Serving and Triton."""

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Send once the batch is full or the delay has passed."""
        return _plan_with_delay(self._options, self._options.max_batch_size, head, situation)


class AimdPolicy(EagerPolicy):
    """A policy of additive increase and multiplicative decrease (Clipper, NSDI 2017, §4.3.1)."""

    def __init__(self, options: ServingOptions) -> None:
        super().__init__(options)
        self._max_rows = 1.0

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Send once the batch has the current maximum or the delay has passed."""
        return _plan_with_delay(self._options, int(self._max_rows), head, situation)

    def observe(self, rows: int, latency_s: float, budget_s: float) -> None:
        """Adjust the maximum; a batch below it does not raise it."""
        if latency_s > budget_s:
            self._max_rows = max(1.0, _AIMD_DECREASE * min(rows, self._max_rows))
        elif latency_s < _AIMD_BELOW * budget_s and rows >= int(self._max_rows):
            grown = self._max_rows + _AIMD_INCREASE_ROWS
            self._max_rows = min(float(self._options.max_batch_size), grown)


class QuantilePolicy(EagerPolicy):
    """A policy of the largest batch that fits the budget by a quantile of the latencies.

    Source: Clipper, NSDI 2017, §4.3.1.
    """

    def __init__(self, options: ServingOptions, profile: LatencyProfile) -> None:
        super().__init__(options)
        self._profile = profile

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Send once the batch has the rows that fit the budget or the delay has passed."""
        budget_s = head.deadline - head.arrival
        rows = max(1, self._profile.largest(budget_s, self._options.max_batch_size))
        return _plan_with_delay(self._options, rows, head, situation)


class HybridPolicy(EagerPolicy):
    """A policy that sheds queries that would keep batches small, and holds a batch if that pays.

    Source: Nexus (Shen et al., SOSP 2019, early drop) and Symphony (Chen et al., arXiv 2308.07470,
    deferred dispatch). Changed: the combination of both is this project's.
    """

    def __init__(
        self,
        options: ServingOptions,
        profile: LatencyProfile,
        rate: ArrivalRate,
        closed_loop: ClosedLoop,
    ) -> None:
        super().__init__(options)
        self._profile = profile
        self._rate = rate
        self._closed_loop = closed_loop
        self._revision = 0
        self._useful: dict[tuple[int, int], tuple[int, float]] = {}

    def admits(self, query: Query, num_rows: int, num_replicas: int, num_idle: int = 0) -> bool:
        """Admit a query unless it is late even with the largest useful batches."""
        if query.deadline == NEVER or self._profile.is_empty:
            return True
        budget_s = query.deadline - query.arrival
        cap, cap_s = self._useful_rows(budget_s, num_replicas)
        # Idle replicas take their batches at once, and the other batches follow in rounds.
        rounds = max(0, num_rows - num_idle * cap) / (num_replicas * cap)
        if _OPTIMISM * (rounds + 1) * cap_s <= budget_s and query.rows <= cap:
            return True
        rows, max_rows = query.rows, self._options.max_batch_size
        if rows > max_rows:
            # The query is split into parts, the last of which must be in time.
            num_rows += rows - max_rows
            rows = max_rows
            rounds = max(0, num_rows - num_idle * cap) / (num_replicas * cap)
        latency_s = self._profile.latency_s
        needed_s = rounds * cap_s + latency_s(max(rows, min(num_rows + 1, cap)))
        return _OPTIMISM * needed_s <= budget_s

    def _useful_rows(self, budget_s: float, num_replicas: int) -> tuple[int, float]:
        """Return the largest batch in which queries of this budget are in time, and its latency.

        A query that just misses a batch waits for the next replica and then for its own batch. With
        one replica, most queries wait only for a part of the previous batch. A share of 0.75 is
        better than the half with which no query is ever late (simulated).
        """
        profile = self._profile
        if profile.revision != self._revision or len(self._useful) > _MAX_KNOWN:
            self._revision = profile.revision
            self._useful.clear()
        key = (int(budget_s * 1000), num_replicas)
        found = self._useful.get(key)
        if found is None:
            share = num_replicas / (num_replicas + 1) if num_replicas > 1 else _SHARE_OF_ONE
            share_s = share * budget_s
            rows = max(1, profile.largest(share_s, self._options.max_batch_size))
            found = self._useful[key] = (rows, profile.latency_s(rows))
        return found

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Drop a head that would keep the batch small, send a large enough batch, or hold it."""
        now, start_at, num_replicas, num_rows = situation
        profile, max_rows = self._profile, self._options.max_batch_size
        if head.deadline == NEVER or profile.is_empty:
            until = self._hold_for_returns(situation, NEVER) if num_rows < max_rows else now
            return BatchPlan(max_rows, until, DispatchReason.EAGER)
        budget_s = head.deadline - head.arrival
        cap, _ = self._useful_rows(budget_s, num_replicas)
        rows_per_s = _HEADROOM * self._rate.rows_per_s(now) / num_replicas
        target = min(cap, profile.smallest_for(rows_per_s, max_rows))
        slack_s = head.deadline - start_at
        if slack_s < profile.latency_s(max(head.rows, min(num_rows, target))):
            return None
        fits = max(head.rows, profile.largest(slack_s, max_rows))
        if num_rows >= fits:
            return BatchPlan(fits, now, DispatchReason.FULL)
        if num_replicas == 1:
            until = self._hold_for_returns(situation, slack_s)
            is_target = num_rows >= target
            reason = DispatchReason.TARGET if is_target else DispatchReason.SINGLE_REPLICA
            return BatchPlan(fits, until, reason)
        if num_rows >= target:
            return BatchPlan(fits, now, DispatchReason.TARGET)
        latest = head.arrival + _PATIENCE * budget_s - profile.latency_s(num_rows + 1)
        # A longer hold would take more time than computing the queue now.
        hold_until = min(latest, head.arrival + profile.latency_s(num_rows))
        return BatchPlan(fits, hold_until, DispatchReason.FRONTRUN)

    def _hold_for_returns(self, situation: Situation, slack_s: float) -> float:
        """Return the instant until which to hold the batch for returns; `now` to send it."""
        now, _, num_replicas, num_rows = situation
        rows, until = self._closed_loop.expected_returns(now)
        if num_replicas > 1 or rows < 0.5:
            return now
        latency_s = self._profile.latency_s
        together_s = (
            until - now + latency_s(min(self._options.max_batch_size, round(num_rows + rows)))
        )
        if together_s > slack_s:
            return now
        is_gain = (num_rows + rows) * latency_s(num_rows) > _MIN_GAIN * num_rows * together_s
        return until if is_gain else now


def _plan_with_delay(
    options: ServingOptions, max_rows: int, head: Query, situation: Situation
) -> BatchPlan:
    if situation.num_rows >= max_rows:
        return BatchPlan(max_rows, situation.now, DispatchReason.FULL)
    delay_s = options.max_queue_delay_s or 0.0
    return BatchPlan(max_rows, head.arrival + delay_s, DispatchReason.DELAY)


def make_policy(
    options: ServingOptions, profile: LatencyProfile, rate: ArrivalRate, closed_loop: ClosedLoop
) -> BatchSizePolicy:
    """Return the policy that the options name."""
    match options.policy:
        case PolicyName.HYBRID:
            return HybridPolicy(options, profile, rate, closed_loop)
        case PolicyName.FIXED:
            return FixedPolicy(options)
        case PolicyName.AIMD:
            return AimdPolicy(options)
        case PolicyName.QUANTILE:
            return QuantilePolicy(options, profile)
        case PolicyName.EAGER:
            return EagerPolicy(options)
