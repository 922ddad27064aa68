"""The contract of a container manager.

It is written for back ends that share nothing with management: a replica is told management's
address, its id and a token, and fetches the rest itself.

    prepare ──► start ──► STARTING ──► READY ──► stop: DRAINING ──► STOPPED
                              └───────────┴──► FAILED (with a reason and the end of its log)
"""

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from skysail_common.errors import SkysailError, Status
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.resources import Resources
from skysail_common.states import ReplicaState

Progress = Callable[[str], None]
"""Is told a line of progress."""


class PrepareFailed(SkysailError):
    """The environment or image of a version could not be made."""

    status = Status.FAILED_PRECONDITION

    log_tail: str = ""
    """End of the log of the attempt."""


@dataclass(frozen=True)
class VersionSpec:
    """The part of a model version that a container needs."""

    model_version: ModelVersion
    artifact_sha256: str
    python_version: str
    """Python that the artifact needs, such as 3.11.7; the minor version decides."""
    requirements: tuple[str, ...] = ()
    """What pip must install, as of a requirements file."""


@dataclass(frozen=True)
class WarmUp:
    """The warm-up of a replica before it is ready."""

    is_on: bool = True
    """False to ask nothing."""
    budget_s: float = 0.5
    """Time for calls that measure the speed, seconds; 0 for the example alone."""
    max_rows: int = 64
    """Most rows of such a call."""
    is_measured: bool = False
    """True if the speed is known, so that the example suffices."""


@dataclass(frozen=True)
class ReplicaSpec:
    """One replica to start."""

    replica_id: ReplicaId
    version: VersionSpec
    management_endpoint: str
    """Where it fetches its artifact."""
    token: str = field(repr=False)
    """Proves to management which version it is one of."""
    resources: Resources
    """At least 1 thread; the settings of the manager fill in for other values of 0."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the operator."""
    stuck_after_s: float = 0.0
    """Time after which a call that also takes far longer than usual is stuck; 0 for never."""
    warm_up: WarmUp = WarmUp()
    log_format: str = "console"
    """`console` or `json`."""


@dataclass(frozen=True)
class Container:
    """A container as observed."""

    container_id: str
    replica_id: ReplicaId
    state: ReplicaState
    endpoint: str = ""
    """Where the model server listens, for frontends: `unix:/path` or `host:port`."""
    reason: str = ""
    """Why it is in this state, for people."""
    is_permanent: bool = False
    """True for a failure that another attempt would only repeat, such as a failed import."""
    log_tail: str = ""
    """End of its log, where it failed."""
    started_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """What marks it as ours: cluster, model, version, replica, artifact (its SHA-256)."""

    def is_outdated(self, artifact_sha256: str) -> bool:
        """Return whether it runs other content than the present content of its version."""
        return self.labels.get("artifact", artifact_sha256) != artifact_sha256


Needed = Callable[[], Collection[VersionSpec]]
"""Returns the versions that need their environment or image now; quick."""


def failed_start(version: ModelVersion, index: int, reason: str) -> Container:
    """Return what stands for a replica that has no container, because none could be started."""
    return Container("", ReplicaId(version, index), ReplicaState.FAILED, reason=reason)


class ContainerManager(ABC):
    """Starts, lists and stops the containers that hold replicas of one cluster.

    Called by the reconciler alone, from one event loop. Every method may be called again after a
    failure. A cancelled call leaves behind at most what `list` shows or `sweep` removes. Blocking
    clients are called in threads.
    """

    name: ClassVar[str]
    """What the setting `container-manager` calls it."""

    def check_resources(self, resources: Resources) -> None:  # noqa: B027 - most give anything.
        """Check that a replica can have these resources, before a deployment is accepted.

        Raises:
            Unsupported: no replica of this manager can ever have them.

        Called by:
            `Deployments`, before anything is recorded; must be quick and must not await.
        """

    def default_threads(self, num_replicas: int) -> int:
        """Return how many threads a replica has whose deployment says nothing of threads or CPUs.

        Here replicas share the cores of this machine. A manager whose replicas run elsewhere, or
        whose settings limit their CPUs, says otherwise.

        Args:
            num_replicas: Replicas that the version is to have; perhaps 0.

        Returns:
            At least 1.
        """
        return max(1, (os.cpu_count() or 1) // max(1, num_replicas))

    loads_here: ClassVar[bool] = True
    """Whether replicas load on the cores of one machine; a start counts until its replica is ready
    then, else until `start` returns."""

    def max_concurrent_starts(self) -> int:
        """Return how many replicas may start at once if the settings do not say.

        Returns:
            At least 1; here the number of cores of this machine.
        """
        return os.cpu_count() or 1

    @abstractmethod
    async def open(self) -> None:
        """Take over the containers that an earlier management left running.

        Afterwards `list` shows them; one that was ready is READY at once, without a gap.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of all containers without stopping them."""

    @abstractmethod
    async def prepare(
        self, version: VersionSpec, progress: Progress, *, verifies: bool = False
    ) -> None:
        """Make sure that replicas of the version can start: its environment or image exists.

        Quick where it does already.

        Args:
            version: The version.
            progress: Is called with lines of the log, from the loop.
            verifies: True after a failure of a replica that was never ready: what was prepared may
                be damaged, so that no note of it is trusted.

        Raises:
            PrepareFailed: it cannot be made; says why, with the end of the log.
            ContainerManagerUnavailable: the engine does not answer.
        """

    @abstractmethod
    async def start(self, spec: ReplicaSpec) -> Container:
        """Start a container and return it as STARTING; does not wait for readiness.

        Called only after `prepare`, and only where no live container holds this replica id.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
            SkysailError: it cannot be started; says why.
        """

    @abstractmethod
    async def stop(self, container_id: str, drain_timeout_s: float) -> None:
        """Drain a container, and return when it is gone.

        After `drain_timeout_s` it is killed. An unknown id is one that is gone.
        """

    @abstractmethod
    async def list(self) -> Sequence[Container]:
        """Return every live container, as the engine shows them now.

        The answer never comes from memory alone. What differs from what the manager knew is
        reported by `watch` too, so that a lost event costs one call.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.

        Called by:
            The reconciler, every 30 s.
        """

    @abstractmethod
    def watch(self) -> AsyncIterator[Container]:
        """Yield each container whenever its state changes, and once when it is gone.

        The last that is yielded for a container is STOPPED (it was told to stop) or FAILED.
        Changes between `open` and the first step of the iteration are not lost. Has one consumer.
        What one container does never ends it.

        Raises:
            SkysailError: the manager observes its engine no longer; management ends then, and the
                next one takes the containers over.
        """

    @abstractmethod
    def logs(self, container_id: str, tail_lines: int, follow: bool) -> AsyncIterator[str]:
        """Yield the last lines of a container's log and, if `follow`, new lines until it ends.

        Raises:
            ReplicaNotFound: there is no log of that container.
        """

    @abstractmethod
    async def sweep(self, needed: Needed) -> None:
        """Remove the remains of containers that have ended, and unneeded environments and images.

        Live containers are the reconciler's business.

        Args:
            needed: Asked before each removal, under the lock that `prepare` takes for the same
                thing: a version may be registered, and prepared, during a sweep.
        """
