"""The last report about a live container."""

from dataclasses import dataclass

from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.reconciler.plan import ObservedReplica


@dataclass(frozen=True)
class Observation:
    """A live container and its history."""

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
