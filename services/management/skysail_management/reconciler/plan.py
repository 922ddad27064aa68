"""The plan for the replicas of a model version: desired minus observed, as a pure function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skysail_common.clock import NEVER
from skysail_common.states import ReplicaState

MAX_BACK_OFF_S = 60.0
MAX_BACK_OFF_AFTER_READY_S = 5.0
"""The same limit for a replica that was ready before: it can load, and a query may have caused the
failure."""
FIRST_BACK_OFF_S = 0.5
HEALTHY_AFTER_S = 60.0
"""Time of readiness after which earlier failures of a replica no longer count."""


@dataclass(frozen=True)
class ObservedReplica:
    """A live container of the version."""

    container_id: str
    index: int
    state: ReplicaState
    since: float
    """Instant at which it entered its state."""
    is_outdated: bool = False
    """True if it runs another artifact than the present one of the version."""


@dataclass(frozen=True)
class Failures:
    """The failures of a replica index."""

    count: int
    last: float
    """Instant of the last failure."""
    was_ready: bool = False
    """True if the last failed container was ready before."""


@dataclass(frozen=True)
class Stop:
    """A container to stop."""

    container_id: str
    reason: str
    is_failure: bool = False
    """True if the stop counts as a failure of the replica."""
    is_permanent: bool = False
    """True if a restart would only repeat the failure."""


@dataclass(frozen=True)
class ReplicaPlan:
    """The starts and stops to make now, and the time of the next plan."""

    start: tuple[int, ...] = ()
    """Indexes of replicas to start."""
    stop: tuple[Stop, ...] = ()
    wake_at: float = NEVER
    """Instant at which the plan changes without an event."""


def back_off_s(num_failures: int, was_ready: bool = False) -> float:
    """Return the backoff before the next start, doubled by each failure up to a minute.

    Args:
        num_failures: Failures since the replica was last healthy.
        was_ready: True if the last failed container was ready before; the limit is then 5 s.
    """
    if num_failures <= 0:
        return 0.0
    longest_s = MAX_BACK_OFF_AFTER_READY_S if was_ready else MAX_BACK_OFF_S
    return min(longest_s, FIRST_BACK_OFF_S * 2.0 ** min(num_failures - 1, 16))


def plan_replicas(
    num_replicas: int,
    start_timeout_s: float,
    observed: Sequence[ObservedReplica],
    failures: Mapping[int, Failures],
    now: float,
) -> ReplicaPlan:
    """Return the plan that turns the observed containers into the desired ones.

    Indexes stay contiguous from 0. Draining containers are neither counted nor stopped again, and
    their index is free only when they are gone.

    Args:
        num_replicas: Desired replicas, ≥ 0.
        start_timeout_s: Longest time from start to readiness.
        observed: Live containers.
        failures: The failures of each index.
        now: The present instant.
    """
    stop: list[Stop] = []
    wake_at = NEVER
    taken: dict[int, ObservedReplica] = {}
    draining = {item.index for item in observed if item.state is ReplicaState.DRAINING}
    live = [item for item in observed if item.state is not ReplicaState.DRAINING]
    # Ready and older containers sort first, so that they keep an index that two containers hold.
    for item in sorted(live, key=lambda item: (item.state is not ReplicaState.READY, item.since)):
        if item.is_outdated:
            stop.append(Stop(item.container_id, "it runs other content"))
        elif item.index >= num_replicas:
            stop.append(Stop(item.container_id, "no longer wanted"))
        elif item.index in taken:
            stop.append(Stop(item.container_id, "another holds its index"))
        elif item.state is ReplicaState.STARTING and now >= item.since + start_timeout_s:
            reason = f"not ready within {start_timeout_s:g} s"
            stop.append(Stop(item.container_id, reason, is_failure=True))
        else:
            taken[item.index] = item
            if item.state is ReplicaState.STARTING:
                wake_at = min(wake_at, item.since + start_timeout_s)
    start: list[int] = []
    ended = {item.container_id for item in stop}
    stopping = {item.index for item in live if item.container_id in ended}
    for index in range(num_replicas):
        if index in taken or index in draining or index in stopping:
            continue
        failed = failures.get(index)
        earliest = failed.last + back_off_s(failed.count, failed.was_ready) if failed else now
        if earliest <= now:
            start.append(index)
        else:
            wake_at = min(wake_at, earliest)
    return ReplicaPlan(tuple(start), tuple(stop), wake_at)
