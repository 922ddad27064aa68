"""A live container as the reconciler has seen it."""

from dataclasses import dataclass

from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.reconciler.plan import Observed


@dataclass(frozen=True)
class Seen:
    """A live container and its past."""

    container: Container
    since: float
    """Instant at which it came into its state."""
    was_ready: bool
    """True once it has been ready."""

    @property
    def index(self) -> int:
        """Index of its replica."""
        return self.container.replica_id.index

    @property
    def is_loading(self) -> bool:
        """True until it is ready for the first time."""
        return self.container.state is ReplicaState.STARTING and not self.was_ready

    def observed(self, artifact: str) -> Observed:
        """Return it as a plan needs it; `artifact` is that of its version now."""
        return Observed(
            self.container.container_id,
            self.index,
            self.container.state,
            self.since,
            is_outdated=self.container.is_outdated(artifact),
        )
