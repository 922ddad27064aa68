"""The contract of a cluster, for `skysail up` and `skysail down` on any back end.

    Cluster                  up, down, endpoints
    ├─ SupervisedCluster     the process of `skysail up` supervises the services
    │  ├─ LocalCluster       services are its child processes
    │  └─ DockerCluster      services are containers of the engine of this machine
    └─ KubernetesCluster     services are pods, which Kubernetes supervises

`back_ends.py` chooses the implementation. The command line has no branch for any of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from skysail.clusters.options import ClusterEndpoints

Flags = Mapping[str, Any]
"""Values of the options of a command, by the names of its parameters; defaults may be absent."""

Progress = Callable[[str], None]
"""Called with each line of progress."""

Confirm = Callable[[str, str], None]
"""Called with a cluster and the consequence of its removal; raises if the operator declines."""


class Cluster(ABC):
    """One cluster of Skysail: its services in one place.

    An implementation provides `from_flags`, `check`, `up`, `endpoints` and `down`; the other members
    have defaults. Constructing a cluster starts nothing. Each method runs in the process of a command
    line and may block it.
    """

    is_supervised: ClassVar[bool] = False
    """True if `up` supervises the services until a signal, False if it returns once they are ready."""

    can_delete_data: ClassVar[bool] = False
    """True if `down` can delete the data of the cluster."""

    @classmethod
    @abstractmethod
    def from_flags(cls, data_dir: Path, flags: Flags, environment: Mapping[str, str]) -> "Cluster":
        """Return the cluster that the options of a command describe.

        Args:
            data_dir: Data directory that the command uses.
            flags: Options of the command; an implementation reads those that it knows.
            environment: Variables that services of this machine inherit.

        Raises:
            InvalidInput: an option has an illegal value.
        """

    @classmethod
    def started_last(
        cls, data_dir: Path, flags: Flags, environment: Mapping[str, str]
    ) -> "Cluster":
        """Return the cluster that was started last from a data directory.

        Raises:
            FailedPrecondition: the options name another cluster.
        """
        return cls.from_flags(data_dir, flags, environment)

    @abstractmethod
    def check(self, progress: Progress) -> None:
        """Check that `up` can begin on this machine, without starting anything.

        Args:
            progress: Called if another cluster was started last from the data directory.

        Raises:
            FailedPrecondition: a part of Skysail is not installed, or the data directory is in use.
        """

    @abstractmethod
    async def up(self, on_ready: Callable[[ClusterEndpoints], None], progress: Progress) -> None:
        """Start every service, and record the endpoints in the data directory.

        A supervised cluster stops all of its services before this returns or raises. Any other leaves
        its services to the place where they run, and `down` removes also a start that failed.

        Args:
            on_ready: Called once, when a frontend takes queries.
            progress: Called with each step that takes a while.

        Raises:
            StartFailed: a service does not start.
            FailedPrecondition: a port, a file, a Secret or the data directory prevents the start.
            ContainerManagerUnavailable: the engine or Kubernetes does not answer.
        """

    @abstractmethod
    async def endpoints(self) -> ClusterEndpoints:
        """Return how this machine reaches the cluster; endpoints that it cannot reach are empty.

        Raises:
            ContainerManagerUnavailable: Kubernetes does not answer.
        """

    @abstractmethod
    async def down(
        self, confirm: Confirm, *, deletes_data: bool = False, is_forced: bool = False
    ) -> list[str]:
        """Stop the services with their replicas, or remove the leftovers of a killed cluster.

        A second call finds no cluster and raises.

        Args:
            confirm: Called before something is removed that `up` alone does not restore.
            deletes_data: True to delete the data too, if `can_delete_data`.
            is_forced: True to stop the cluster even if that loses records.

        Returns:
            Lines about the result, for the operator.

        Raises:
            FailedPrecondition: no cluster runs, it does not end in time, or it would lose records.
        """

    def hints(self, endpoints: ClusterEndpoints) -> list[str]:
        """Return lines that tell an operator what to do with a cluster that is ready."""
        return []
