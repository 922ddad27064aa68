"""A cluster whose services are pods."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from skysail.clusters.base import Cluster, Confirm, Flags, Progress
from skysail.clusters.cluster_file import remove_endpoints, write_endpoints
from skysail.clusters.data_dir_lock import check_idle
from skysail.clusters.kubernetes.cluster_record import ClusterRecord, remove_record
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.kubernetes.overlay import cluster_objects
from skysail.clusters.kubernetes.removal import Removed
from skysail.clusters.kubernetes.services import KubernetesServices
from skysail.clusters.options import ClusterEndpoints
from skysail_common.errors import FailedPrecondition


class KubernetesCluster(Cluster):
    """The pods of a cluster in one namespace; Kubernetes restarts them."""

    can_delete_data: ClassVar[bool] = True

    def __init__(self, data_dir: Path, options: KubernetesOptions, anchor_uid: str = "") -> None:
        """Describes a cluster without starting it.

        Args:
            data_dir: Directory of this machine that records how the cluster is reached.
            options: The cluster.
            anchor_uid: Identity of the only cluster that `down` may remove; any if empty.
        """
        self._data_dir = data_dir
        self._options = options
        self._anchor_uid = anchor_uid

    @classmethod
    def from_flags(
        cls, data_dir: Path, flags: Flags, environment: Mapping[str, str]
    ) -> "KubernetesCluster":
        """Return the cluster that the options of a command describe."""
        return cls(data_dir, KubernetesOptions.from_flags(flags))

    @classmethod
    def started_last(
        cls, data_dir: Path, flags: Flags, environment: Mapping[str, str]
    ) -> "KubernetesCluster":
        """Return the cluster that the note of a data directory names."""
        note = ClusterRecord.read(data_dir)
        if note is None:
            raise FailedPrecondition(f"no cluster on Kubernetes was started from {data_dir}")
        cluster = flags.get("cluster", note.options.cluster)
        if cluster != note.options.cluster:
            raise FailedPrecondition(
                f"cannot remove cluster {cluster!r}: {data_dir} was used last for {note.where}"
            )
        return cls(data_dir, note.options, note.anchor_uid)

    def check(self, progress: Progress) -> None:
        """Check that the data directory may record a cluster on Kubernetes."""
        # Clients must not find this cluster in place of a local one that runs.
        check_idle(self._data_dir)

    async def up(self, on_ready: Callable[[ClusterEndpoints], None], progress: Progress) -> None:
        """Apply the overlay, and return once every service is ready."""
        objects = cluster_objects(self._options)
        before = ClusterRecord.read(self._data_dir)
        services = KubernetesServices(self._options)
        try:
            progress(f"cluster {self._options.cluster!r} in {await services.open()}")
            await services.check(objects)
            note = await services.claim(progress)
            if before is not None and before.where != note.where:
                progress(f"{before.where} runs on; '{before.down_command}' removes it")
            # The note is written first, so that `down` removes a start that fails.
            note.write(self._data_dir)
            await services.start(objects, progress)
            endpoints = await services.endpoints()
        finally:
            await services.close()
        write_endpoints(self._data_dir, endpoints)
        on_ready(endpoints)

    async def endpoints(self) -> ClusterEndpoints:
        """Return the addresses of the Services that this machine reaches."""
        services = KubernetesServices(self._options)
        try:
            await services.open()
            return await services.endpoints()
        finally:
            await services.close()

    async def down(
        self, confirm: Confirm, *, deletes_data: bool = False, is_forced: bool = False
    ) -> list[str]:
        """Remove the cluster from Kubernetes, and forget it in the data directory that notes it."""
        options, services = self._options, KubernetesServices(self._options)
        name = f"cluster {options.cluster!r}"
        fate = "are deleted, with all that was deployed" if deletes_data else "stay"
        try:
            where = await services.open()
            confirm(
                f"{name} in {where}",
                f"is removed with its replicas; its claims and Secrets {fate}.",
            )
            removed = await services.remove(deletes_data=deletes_data, anchor_uid=self._anchor_uid)
        finally:
            await services.close()
        self._forget()
        if not removed.was_there:
            raise FailedPrecondition(f"{name} does not run in namespace {options.namespace!r}")
        return [f"removed {name} from namespace {options.namespace!r}", *_remains(removed)]

    def _forget(self) -> None:
        note = ClusterRecord.read(self._data_dir)
        if note is None:
            return
        if self._anchor_uid or note.options.is_same_cluster(self._options):
            remove_record(self._data_dir)
            remove_endpoints(self._data_dir)

    def hints(self, endpoints: ClusterEndpoints) -> list[str]:
        """Return how the operator removes the cluster, and how to reach it if nothing does."""
        lines = ["It runs on; 'skysail down' removes it."]
        if not endpoints.management:
            lines.append("Management has no door to the outside: 'skysail forward' makes one here.")
        return lines


def _remains(removed: Removed) -> list[str]:
    lines = [f"the node still has the directory {path}" for path in removed.directories]
    if removed.kept:
        lines.insert(0, f"kept: {', '.join(removed.kept)}; --delete-data deletes them")
    return lines
