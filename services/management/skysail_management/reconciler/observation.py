"""The observed containers of one model version, and the failures of its replicas."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from skysail_common.clock import Clock
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.reconciler.plan import HEALTHY_AFTER_S, Failures, ObservedReplica

_LIST_AGE_S = 10.0


@dataclass(frozen=True)
class Observation:
    """The last report about a live container, with its history."""

    container: Container
    since: float
    """Instant at which it entered its state."""
    was_ready: bool
    """True if it was ever ready."""

    @property
    def index(self) -> int:
        """Index of its replica."""
        return self.container.replica_id.index

    @property
    def is_loading(self) -> bool:
        """True until it is ready for the first time."""
        return self.container.state is ReplicaState.STARTING and not self.was_ready

    def for_plan(self, artifact: str) -> ObservedReplica:
        """Return the part that a plan needs; `artifact` is the current one of the version."""
        return ObservedReplica(
            self.container.container_id,
            self.index,
            self.container.state,
            self.since,
            is_outdated=self.container.is_outdated(artifact),
        )


class ReplicaHistory:
    """The live containers of one model version, and the failures of each replica."""

    def __init__(self, clock: Clock) -> None:
        """Create an empty history."""
        self._clock = clock
        self.live: dict[str, Observation] = {}
        """The live containers, by id."""
        self.failures: dict[int, Failures] = {}
        """The failures of each replica since it was last healthy, by index."""
        self._last_failed: dict[int, Container] = {}

    @property
    def containers(self) -> list[Container]:
        """The live containers, by index."""
        live = [each.container for each in self.live.values()]
        return sorted(live, key=lambda container: container.replica_id.index)

    @property
    def failed(self) -> dict[int, Container]:
        """The last failed container of each index that has no live one."""
        live = {each.index for each in self.live.values()}
        return {index: each for index, each in self._last_failed.items() if index not in live}

    @property
    def loading(self) -> set[int]:
        """The replicas that were never ready yet, by index."""
        return {each.index for each in self.live.values() if each.is_loading}

    def last_failed(self, index: int) -> Container | None:
        """Return the last failed container of a replica, or None."""
        return self._last_failed.get(index)

    def num_restarts(self, index: int) -> int:
        """Return the number of failures of a replica since it was last healthy."""
        failures = self.failures.get(index)
        if failures is None or self._is_healthy(index):
            return 0
        return failures.count

    def _is_healthy(self, index: int) -> bool:
        now = self._clock()
        return any(
            each.container.state is ReplicaState.READY and now - each.since >= HEALTHY_AFTER_S
            for each in self.live.values()
            if each.index == index
        )

    def num_ready(self, artifact: str) -> int:
        """Return the number of ready replicas with the current artifact of the version."""
        return sum(
            each.state is ReplicaState.READY and not each.is_outdated(artifact)
            for each in self.containers
        )

    def has_counted(self, container: Container) -> bool:
        """Return whether the failure of a container was already counted."""
        last = self._last_failed.get(container.replica_id.index)
        return last is not None and last.container_id == container.container_id

    def record(self, container: Container) -> Observation:
        """Record a report about a container, and return its new observation.

        A draining container stays DRAINING until it ends. An ended container is no longer live.
        """
        before = self.live.get(container.container_id)
        if not container.state.is_live:
            self.live.pop(container.container_id, None)
            was_ready = before is not None and before.was_ready
            return Observation(container, self._clock(), was_ready)
        if before is not None and before.container.state is ReplicaState.DRAINING:
            container = replace(container, state=ReplicaState.DRAINING)
        is_same = before is not None and before.container.state is container.state
        since = before.since if before is not None and is_same else self._clock()
        was_ready = before is not None and before.was_ready
        was_ready |= container.state is ReplicaState.READY
        observation = Observation(container, since, was_ready)
        self.live[container.container_id] = observation
        return observation

    def record_start(self, container: Container) -> None:
        """Record a started container, unless the manager already reported about it."""
        if container.container_id not in self.live and not self.has_counted(container):
            self.live[container.container_id] = Observation(container, self._clock(), False)

    def record_drain(self, container_id: str, reason: str) -> Observation:
        """Mark a live container as draining, and return its previous observation."""
        before = self.live[container_id]
        draining = replace(before.container, state=ReplicaState.DRAINING, reason=reason)
        self.live[container_id] = Observation(draining, self._clock(), before.was_ready)
        return before

    def record_failure(
        self, container: Container, ready_since: float | None, was_ready: bool
    ) -> int:
        """Count a failure of a replica, and return its failures since it was last healthy.

        Args:
            container: The container that failed.
            ready_since: Instant at which it became ready; None if it failed in another state.
            was_ready: True if it was ever ready.
        """
        index, now = container.replica_id.index, self._clock()
        earlier = self.failures.get(index)
        was_healthy = ready_since is not None and now - ready_since >= HEALTHY_AFTER_S
        count = (earlier.count if earlier and not was_healthy else 0) + 1
        self.failures[index] = Failures(count, now, was_ready)
        self._last_failed[index] = container
        return count

    def update_failure(self, container: Container) -> None:
        """Replace the last failed container of a replica, without counting a failure."""
        self._last_failed[container.replica_id.index] = container

    def missing(self, listed: Collection[str]) -> list[Container]:
        """Return the live containers that a list of the manager lacks.

        A container that was started a moment ago may be younger than the list.
        """
        now = self._clock()
        return [
            each.container
            for container_id, each in self.live.items()
            if container_id not in listed
            and now - each.since > _LIST_AGE_S
            and each.container.state is not ReplicaState.DRAINING
        ]

    def clear_failures(self) -> None:
        """Drop all failures after an undeploy of the version."""
        self.failures.clear()
        self._last_failed.clear()
