"""Policies: how many rows the next batch may have, and until when to hold it for more.

Each is a pure decision over what the batcher knows; `docs/batching.md` compares them.
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
"""Batches are to be large enough for so much more than what arrives."""

_PATIENCE = 0.9
"""Part of its time that a query may have used when its batch ends, if holding is worthwhile."""

_MIN_GAIN = 1.1
"""Rows per second that holding for returns must promise, relative to sending at once."""

_MAX_KNOWN = 256
_SHARE_OF_ONE = 0.75
_OPTIMISM = 0.88
"""Only what is certain to miss is refused at once; the rest may profit from what others leave."""


_AIMD_INCREASE_ROWS = 2
_AIMD_DECREASE = 0.9
_AIMD_BELOW = 0.9


class DispatchReason(enum.Enum):
    """Why a batch was sent when it was."""

    FULL = "full"
    """It could hold no more rows and be in time."""
    TARGET = "target"
    """It has the rows with which the replicas keep up with the arrivals."""
    FRONTRUN = "frontrun"
    """A moment later one more row could not have been in time."""
    SINGLE_REPLICA = "single_replica"
    """There is one replica, for which waiting, or waiting longer, gains nothing."""
    EAGER = "eager"
    """The policy does not wait."""
    DELAY = "delay"
    """The queue delay of the model passed."""
    PREFERRED = "preferred"
    """It has a size that the model prefers."""
    PROBE = "probe"
    """All would be hopeless by what was learned, which one query finds out anew."""


class ShedReason(enum.Enum):
    """Why a query was given up before it was computed."""

    EXPIRED = "expired"
    """Its deadline passed while it waited."""
    HOPELESS = "hopeless"
    """Its deadline would have passed before the end of its batch."""
    QUEUE_FULL = "queue_full"
    """Too many rows were waiting."""
    MEMORY_FULL = "memory_full"
    """The inputs of the queries that were not answered took too much memory."""
    NO_REPLICA = "no_replica"
    """No replica was ready."""


class BatchPlan(NamedTuple):
    """What to do with the head of the queue."""

    max_rows: int
    """Most rows of the batch."""
    hold_until: float
    """Instant until which more queries are waited for; one that has passed means at once."""
    reason: DispatchReason
    """Why it is sent then."""


class Situation(NamedTuple):
    """What a policy decides on."""

    now: float
    start_at: float
    """Instant at which the replica would begin with the batch."""
    num_replicas: int
    num_rows: int
    """Rows that wait."""


class BatchSizePolicy(Protocol):
    """Decides about the next batch of one model version."""

    def admits(self, query: Query, num_rows: int, num_replicas: int, num_idle: int = 0) -> bool:
        """Return whether a query that comes while so many rows wait can be in time."""
        ...

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Return what to do with the most urgent query, or None where it is hopeless."""
        ...

    def observe(self, rows: int, latency_s: float, budget_s: float) -> None:
        """Learn from a batch: its rows, how long it took, and how long it could have taken."""
        ...


class EagerPolicy:
    """Whatever waits when a replica is free, as much as a batch may hold; the base of the others.

    It learns nothing and gives up nothing that is not expired.
    """

    def __init__(self, options: ServingOptions) -> None:
        self._options = options

    def admits(self, query: Query, num_rows: int, num_replicas: int, num_idle: int = 0) -> bool:
        """Admit everything."""
        return True

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Send at once."""
        return BatchPlan(self._options.max_batch_size, situation.now, DispatchReason.EAGER)

    def observe(self, rows: int, latency_s: float, budget_s: float) -> None:
        """Learn nothing."""


class FixedPolicy(EagerPolicy):
    """A maximum and a delay, as TF-Serving and Triton have them."""

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Send once the batch is full or the delay has passed."""
        return _plan_with_delay(self._options, self._options.max_batch_size, head, situation)


class AimdPolicy(EagerPolicy):
    """Additive increase, multiplicative decrease of the maximum (Clipper, NSDI 2017, §4.3.1)."""

    def __init__(self, options: ServingOptions) -> None:
        super().__init__(options)
        self._max_rows = 1.0

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Send once the batch has the present maximum or the delay has passed."""
        return _plan_with_delay(self._options, int(self._max_rows), head, situation)

    def observe(self, rows: int, latency_s: float, budget_s: float) -> None:
        """Move the maximum; a batch that was smaller says nothing about it."""
        if latency_s > budget_s:
            self._max_rows = max(1.0, _AIMD_DECREASE * min(rows, self._max_rows))
        elif latency_s < _AIMD_BELOW * budget_s and rows >= int(self._max_rows):
            grown = self._max_rows + _AIMD_INCREASE_ROWS
            self._max_rows = min(float(self._options.max_batch_size), grown)


class QuantilePolicy(EagerPolicy):
    """The most rows that a high quantile of the latencies allows (Clipper, NSDI 2017, §4.3.1)."""

    def __init__(self, options: ServingOptions, profile: LatencyProfile) -> None:
        super().__init__(options)
        self._profile = profile

    def plan(self, head: Query, situation: Situation) -> BatchPlan | None:
        """Send once the batch has what the query's time allows or the delay has passed."""
        budget_s = head.deadline - head.arrival
        rows = max(1, self._profile.largest(budget_s, self._options.max_batch_size))
        return _plan_with_delay(self._options, rows, head, situation)


class HybridPolicy(EagerPolicy):
    """Sheds what would keep batches small, and holds a batch only as long as it gains by it.

    After Nexus (Shen et al., SOSP 2019, early drop) and Symphony (Chen et al., arXiv 2308.07470,
    deferred dispatch); the combination is this project's.
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
        """Refuse what would be late even if all before it went in the largest useful batches."""
        if query.deadline == NEVER or self._profile.is_empty:
            return True
        budget_s = query.deadline - query.arrival
        cap, cap_s = self._useful_rows(budget_s, num_replicas)
        # What waits goes at once where replicas idle, and else when one is done.
        rounds = max(0, num_rows - num_idle * cap) / (num_replicas * cap)
        if _OPTIMISM * (rounds + 1) * cap_s <= budget_s and query.rows <= cap:
            return True
        rows, max_rows = query.rows, self._options.max_batch_size
        if rows > max_rows:
            # Asked in parts, of which the last must be in time.
            num_rows += rows - max_rows
            rows = max_rows
            rounds = max(0, num_rows - num_idle * cap) / (num_replicas * cap)
        latency_s = self._profile.latency_s
        needed_s = rounds * cap_s + latency_s(max(rows, min(num_rows + 1, cap)))
        return _OPTIMISM * needed_s <= budget_s

    def _useful_rows(self, budget_s: float, num_replicas: int) -> tuple[int, float]:
        """Return the most rows of a batch in which such queries can be in time, and its latency.

        A query that just misses a batch waits for the next replica, then for its own batch. With
        one replica most wait for a part of the batch before only (simulated: 0.75 is better than
        the half in which none is ever late).
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
        """Give up what would keep batches small; send what is large enough, else hold."""
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
        # In a longer time the replica could have computed what waits now.
        hold_until = min(latest, head.arrival + profile.latency_s(num_rows))
        return BatchPlan(fits, hold_until, DispatchReason.FRONTRUN)

    def _hold_for_returns(self, situation: Situation, slack_s: float) -> float:
        """Return until when to wait for those who were just answered, if that is worthwhile."""
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
