"""The contract of a container manager.

A back end shares nothing with management but the files of artifacts, where that is possible. Elsewhere
a replica receives the address of management, its id and a token, and fetches the rest itself.

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
"""Receives a line of progress."""


class PrepareFailed(SkysailError):
    """The environment or image of a version cannot be built."""

    status = Status.FAILED_PRECONDITION

    log_tail: str = ""
    """End of the log of the attempt."""


@dataclass(frozen=True)
class VersionSpec:
    """The part of a model version that a container needs."""

    model_version: ModelVersion
    artifact_sha256: str
    python_version: str
    """Python that the artifact needs, such as 3.11.7; the minor version decides. Empty for an artifact
    without pickles."""
    requirements: tuple[str, ...] = ()
    """Lines of a requirements file for pip."""


@dataclass(frozen=True)
class WarmUp:
    """The warm-up of a replica before it becomes ready."""

    is_on: bool = True
    """False to make no warm-up call."""
    budget_s: float = 0.5
    """Time for calls that measure latency, seconds; 0 calls the model with the example only."""
    max_rows: int = 64
    """Most rows of a measuring call."""
    is_measured: bool = False
    """True if the latencies are known, so that the example suffices."""


@dataclass(frozen=True)
class ReplicaSpec:
    """The specification of one replica."""

    replica_id: ReplicaId
    version: VersionSpec
    management_endpoint: str
    """Endpoint from which the replica fetches its artifact."""
    token: str = field(repr=False)
    """Proves to management which version the replica belongs to."""
    resources: Resources
    """At least 1 thread; for other values of 0 the settings of the manager apply."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables given by the operator."""
    stuck_after_s: float = 0.0
    """Time after which a call that also takes far longer than usual counts as stuck; 0 for
    never."""
    check_health_s: float = 0.0
    """Time between two calls of the model's `check_health`; 0 for none."""
    warm_up: WarmUp = WarmUp()
    log_format: str = "console"
    """`console` or `json`."""


@dataclass(frozen=True)
class Container:
    """An observed container."""

    container_id: str
    replica_id: ReplicaId
    state: ReplicaState
    endpoint: str = ""
    """Endpoint of the model server for frontends: `unix:/path` or `host:port`."""
    reason: str = ""
    """Reason for the state, for people."""
    is_permanent: bool = False
    """True for a failure that a retry would only repeat, such as a failed import."""
    log_tail: str = ""
    """End of its log if it failed."""
    started_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of Skysail: cluster, model, version, replica, artifact (its SHA-256)."""

    def is_outdated(self, artifact_sha256: str) -> bool:
        """Return whether it runs another artifact than the present one of its version."""
        return self.labels.get("artifact", artifact_sha256) != artifact_sha256


Needed = Callable[[], Collection[VersionSpec]]
"""Returns the versions that need their environment or image now; quick."""


def failed_start(version: ModelVersion, index: int, reason: str) -> Container:
    """Return a failed container without an id, for a start that failed."""
    return Container("", ReplicaId(version, index), ReplicaState.FAILED, reason=reason)


class ContainerManager(ABC):
    """Starts, lists and stops the containers that hold replicas of one cluster.

    Only the reconciler calls it, from one event loop. Every method may be retried after a failure.
    A cancelled call leaves behind at most what `list` shows or `sweep` removes. Blocking clients
    run in threads.
    """

    name: ClassVar[str]
    """Name in the setting `container-manager`."""

    def check_resources(self, resources: Resources) -> None:  # noqa: B027 - most accept all.
        """Check that a replica can have these resources, before a deployment is accepted.

        Raises:
            Unsupported: no replica of this manager can ever have them.

        Called by:
            `Deployments`, before anything is recorded; must be quick and must not await.
        """

    def default_threads(self, num_replicas: int) -> int:
        """Return the threads of a replica whose deployment gives neither threads nor CPUs.

        By default, replicas share the cores of this machine. A manager overrides this if its
        replicas run elsewhere, or if its settings limit their CPUs.

        Args:
            num_replicas: Desired number of replicas of the version; may be 0.

        Returns:
            At least 1.
        """
        return max(1, (os.cpu_count() or 1) // max(1, num_replicas))

    loads_here: ClassVar[bool] = True
    """True if replicas load on the cores of one machine. A start then counts until its replica is
    ready, otherwise until `start` returns."""

    def max_concurrent_starts(self) -> int:
        """Return the limit of concurrent starts, if the settings set none.

        Returns:
            At least 1; by default the number of cores of this machine.
        """
        return os.cpu_count() or 1

    @abstractmethod
    async def open(self) -> None:
        """Adopt the containers that an earlier management left running.

        Afterwards `list` shows them; a container that was ready is READY at once, without a gap.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release all containers without stopping them."""

    @abstractmethod
    async def prepare(
        self, version: VersionSpec, progress: Progress, *, verifies: bool = False
    ) -> None:
        """Build the environment or image that replicas of the version need.

        The call is quick if the environment or image exists.

        Args:
            version: The version.
            progress: Called with lines of the log, from the loop.
            verifies: True after a failure of a replica that was never ready. The environment may be
                damaged, so that no cached state is trusted.

        Raises:
            PrepareFailed: the build failed; the error has the reason and the end of the log.
            ContainerManagerUnavailable: the engine does not answer.
        """

    @abstractmethod
    async def start(self, spec: ReplicaSpec) -> Container:
        """Start a container and return it as STARTING; does not wait for readiness.

        Called only after `prepare`, and only if no live container holds this replica id.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
            SkysailError: the container cannot be started, with the reason.
        """

    @abstractmethod
    async def stop(self, container_id: str, drain_timeout_s: float) -> None:
        """Drain a container, and return when it is gone.

        The container is killed after `drain_timeout_s`. An unknown id counts as gone.
        """

    @abstractmethod
    async def list(self) -> Sequence[Container]:
        """Return every live container that the engine reports.

        The answer never comes from memory alone. `watch` also reports each difference to the
        previous state, so that a lost event delays a report only until the next call.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.

        Called by:
            The reconciler, every 30 s.
        """

    @abstractmethod
    def watch(self) -> AsyncIterator[Container]:
        """Yield each container when its state changes, and once when it is gone.

        The last state of a container is STOPPED (after `stop`) or FAILED. Changes between `open`
        and the first step of the iteration are not lost. There is one consumer. An error about one
        container never ends the iteration.

        Raises:
            SkysailError: the manager lost its watch of the engine; management exits, and the next
                one adopts the containers.
        """

    @abstractmethod
    def logs(self, container_id: str, tail_lines: int, follow: bool) -> AsyncIterator[str]:
        """Yield the last lines of a container's log and, if `follow`, new lines until it ends.

        Raises:
            ReplicaNotFound: no log of that container exists.
        """

    @abstractmethod
    async def sweep(self, needed: Needed) -> None:
        """Remove ended containers, and environments and images that no version needs.

        Live containers are never touched.

        Args:
            needed: Called before each removal, under the lock that `prepare` takes for the same
                environment or image, because a version may be registered and prepared during a
                sweep.
                thing: a version may be registered, and prepared, during a sweep.
        """
