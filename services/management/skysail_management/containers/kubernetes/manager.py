"""The container manager `kubernetes`: a replica is a pod.

An init container fetches the artifact, and a volume has the packages, so that no image is built.
With the setting docker-registry, an image with both is built and pushed instead.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from skysail_common.errors import ReplicaNotFound, SkysailError, Unsupported
from skysail_common.extras import require_extra
from skysail_common.identifiers import ReplicaId
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import ClusterRefused
from skysail_common.kubernetes.kinds import Object
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.resources import Resources
from skysail_common.states import ReplicaState
from skysail_management.containers.base import (
    Container,
    ContainerManager,
    Needed,
    Progress,
    ReplicaSpec,
    VersionSpec,
)
from skysail_management.containers.change_feed import ChangeFeed, retry_until_done
from skysail_management.containers.exit_reasons import explain_exit, log_excerpt
from skysail_management.containers.kubernetes import manifests
from skysail_management.containers.kubernetes.images import KubernetesImages
from skysail_management.containers.kubernetes.packages import KubernetesPackages
from skysail_management.containers.kubernetes.pod_states import (
    PodState,
    is_claimed,
    is_deleted,
    is_released,
    read_pod,
)
from skysail_management.containers.kubernetes.pods import KubernetesPods
from skysail_management.settings import ManagementSettings

if TYPE_CHECKING:
    from skysail_management.containers.docker.images import VersionImages

log = logging.getLogger(__name__)

_LOG_TAIL_LINES = 100
_LOG_TIMEOUT_S = 5.0
_MAX_LOG_CHARACTERS = 64 * 1024
_KILL_TIMEOUT_S = 60.0
_MAX_CLAIMS = 16


@dataclass
class _PodReplica:
    container: Container
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    is_stopping: bool = False
    has_failed: bool = False


class KubernetesManager(ContainerManager):
    """Runs replicas as pods of a Kubernetes cluster."""

    name = "kubernetes"
    # Kubernetes places each pod on a node with enough room.
    loads_here = False

    def __init__(self, settings: ManagementSettings, api: KubernetesApi | None = None) -> None:
        """Label all objects with the cluster of these settings, which also name the API server."""
        self._settings = settings
        self._api = api or KubernetesApi(
            settings.kubeconfig,
            settings.kubernetes_context,
            settings.kubernetes_proxy_addr,
            settings.kubernetes_namespace,
        )
        self._pods = KubernetesPods(self._api, settings.cluster, self._observe_pod)
        self._bases = KubernetesImages(self._api, settings)
        self._packages = KubernetesPackages(self._api, settings, self._bases)
        self._images = _version_images(settings) if settings.docker_registry else None
        self._replicas: dict[str, _PodReplica] = {}
        self._last_logs: dict[ReplicaId, tuple[str, str]] = {}
        """The last failed pod of each replica, and the end of its log, because Kubernetes deletes
        the log with the pod."""
        self._changes = ChangeFeed()
        self._tasks = BackgroundTasks(self._changes.fail)

    def check_resources(self, resources: Resources) -> None:
        """Reject fractions of a GPU, which pods request by the name of another resource."""
        if 0 < resources.gpus < 1:
            raise Unsupported(
                "cannot reserve a fraction of a GPU on Kubernetes: its device plugin shares GPUs; "
                "configure time-slicing or MIG there, name the resource, such as "
                "nvidia.com/gpu.shared or nvidia.com/mig-1g.10gb, in the setting "
                "kubernetes-gpu-resource, and ask for gpus=1"
            )

    def default_threads(self, num_replicas: int) -> int:
        """Return one thread for each CPU of a replica."""
        return max(1, math.ceil(self._settings.kubernetes_cpus))

    def max_concurrent_starts(self) -> int:
        """Return the most concurrent claims, which bounds the requests to the API."""
        return _MAX_CLAIMS

    async def open(self) -> None:
        """Adopt the pods that an earlier management left running."""
        try:
            await self._api.open()
            await self._pods.open()
            await self._bases.open()
            if self._images is not None:
                await self._images.open()
        except BaseException:
            await self.close()
            raise
        self._tasks.start_essential(self._pods.follow(), "pods")

    async def close(self) -> None:
        """Release all pods without stopping them."""
        await self._tasks.stop()
        if self._images is not None:
            await self._images.close()
        await self._api.close()

    async def prepare(
        self, version: VersionSpec, progress: Progress, *, verifies: bool = False
    ) -> None:
        """Install the packages of the version, or build its image, unless they exist."""
        if self._images is not None:
            await self._images.prepare(version, progress)
        else:
            await self._bases.prepare(version, progress)
            await self._packages.prepare(version, progress, verifies=verifies)

    async def start(self, spec: ReplicaSpec) -> Container:
        """Claim a pod for a replica and return it as STARTING."""
        if self._images is not None:
            # Nodes know the image only by its name in the registry.
            image = self._images.pushed_image(spec.version)
            manifest = manifests.deployment(spec, self._settings, image=image)
        else:
            packages = self._packages.key(spec.version)
            base = {"kubernetes_image": self._bases.image(spec.version)}
            settings = self._settings.model_copy(update=base)
            manifest = manifests.deployment(spec, settings, packages=packages)
        pod = await self._pods.claim(spec, manifest)
        replica = self._replicas.get(pod["metadata"]["name"])
        # The pod may have ended before this coroutine continues.
        return replica.container if replica else read_pod(pod).container

    async def stop(self, container_id: str, drain_timeout_s: float) -> None:
        """Drain a pod, and return when it is gone."""
        replica = self._replicas.get(container_id)
        if replica is None or replica.has_failed:
            return
        replica.is_stopping = True
        self._set(replica, replace(replica.container, state=ReplicaState.DRAINING))
        await self._pods.release(container_id)
        # The grace period of Kubernetes includes the time before the pod gets its signal.
        grace_s = math.ceil(drain_timeout_s) + manifests.ROUTED_AWAY_S
        await self._pods.delete(container_id, grace_s)
        try:
            await asyncio.wait_for(replica.gone.wait(), grace_s + _KILL_TIMEOUT_S)
        except asyncio.TimeoutError:
            # The node of the pod does not answer.
            log.warning("pod not ended; deleting it by force", extra={"container": container_id})
            await self._pods.delete(container_id, 0)
            try:
                await asyncio.wait_for(replica.gone.wait(), _KILL_TIMEOUT_S)
            except asyncio.TimeoutError:
                raise SkysailError(f"cannot delete pod {container_id}") from None

    async def list(self) -> Sequence[Container]:
        """Return every live container that Kubernetes reports."""
        await self._pods.refresh()
        return [each.container for each in self._replicas.values() if not each.has_failed]

    def watch(self) -> AsyncIterator[Container]:
        """Yield each container when its state changes."""
        return self._changes.watch()

    async def logs(self, container_id: str, tail_lines: int, follow: bool) -> AsyncIterator[str]:
        """Yield the last lines of a log and, if `follow`, new lines."""
        kept = dict(self._last_logs.values()).get(container_id)
        if kept is not None:
            for text in deque(kept.splitlines(), maxlen=tail_lines):
                yield text
            return
        pod = self._pods.pods.get(container_id)
        if pod is None or not is_claimed(pod):
            raise ReplicaNotFound(f"no log of container {container_id!r} exists")
        try:
            async with self._api.log(
                container_id, manifests.SERVER_CONTAINER, tail_lines, follow=follow
            ) as lines:
                async for line in lines:
                    yield line.decode(errors="replace")
        except ClusterRefused:
            # The log of the pod is still empty.
            return

    async def sweep(self, needed: Needed) -> None:
        """Remove Kubernetes Deployments without pods, and unused packages, images and logs."""
        versions = {spec.model_version for spec in needed()}
        self._last_logs = {
            replica_id: last
            for replica_id, last in self._last_logs.items()
            if replica_id.model_version in versions
        }
        for name, pod in list(self._pods.pods.items()):
            # The pod failed, or was stopped, while Kubernetes did not answer.
            replica = self._replicas.get(name)
            is_ours = replica is not None and not replica.has_failed
            if not is_ours and (is_claimed(pod) or is_released(pod)) and not is_deleted(pod):
                await self._pods.release(name)
                await self._pods.delete(name, 0)
        await self._pods.sweep()
        if self._images is not None:
            await self._images.sweep(needed)
        else:
            await self._packages.sweep(
                needed,
                lambda: {manifests.mounted_packages(pod) for pod in self._pods.pods.values()},
            )
            await self._bases.sweep(needed)

    def _observe_pod(self, name: str, pod: Object | None) -> None:
        replica = self._replicas.get(name)
        if pod is None:
            if replica is not None:
                self._report_gone(name, replica)
            return
        if not is_claimed(pod):
            return
        if replica is None:
            if is_released(pod) or is_deleted(pod):
                return
            replica = self._replicas[name] = _PodReplica(read_pod(pod).container)
            log.info("pod claimed", extra={"replica": replica.container.replica_id})
        if replica.is_stopping or replica.has_failed:
            return
        state = read_pod(pod)
        if state.container.state is ReplicaState.FAILED:
            replica.has_failed = True
            what = f"failure of {name}"
            self._tasks.start(
                retry_until_done(lambda: self._report_failure(name, replica, state), what), what
            )
            return
        container = _with_reason(state.container, replica.container.reason)
        if container != replica.container:
            self._set(replica, container)

    def _report_gone(self, name: str, replica: _PodReplica) -> None:
        del self._replicas[name]
        if replica.is_stopping:
            self._set(replica, replace(replica.container, state=ReplicaState.STOPPED))
        elif not replica.has_failed:
            reason = "its pod was deleted"
            self._set(replica, replace(replica.container, state=ReplicaState.FAILED, reason=reason))
        # The end is reported last, because its waiter may start another pod.
        replica.gone.set()

    async def _report_failure(self, name: str, replica: _PodReplica, state: PodState) -> None:
        pod = self._pods.pods.get(name)
        text = await self._log(name, state)
        self._last_logs[replica.container.replica_id] = (name, text[-_MAX_LOG_CHARACTERS:])
        reason = explain_exit(state.container.reason, text)
        self._set(replica, replace(state.container, reason=reason, log_tail=log_excerpt(text)))
        if pod is not None and is_deleted(pod):
            # The pod already ends.
            return
        try:
            await self._pods.release(name)
            await self._pods.delete(name, 0)
        except SkysailError as error:
            log.warning("failed pod not deleted", extra={"container": name, "error": error.message})

    async def _log(self, name: str, state: PodState) -> str:
        async def read() -> bytes:
            async with self._api.log(
                name, state.log_container, _LOG_TAIL_LINES, previous=state.is_log_previous
            ) as lines:
                return b"\n".join([line async for line in lines])

        try:
            return (await asyncio.wait_for(read(), _LOG_TIMEOUT_S)).decode(errors="replace")
        except ClusterRefused:
            return ""
        except (SkysailError, asyncio.TimeoutError) as error:
            return f"cannot read the log: {str(error) or 'no answer'}"

    def _set(self, replica: _PodReplica, container: Container) -> None:
        replica.container = container
        self._changes.publish(container)


def _version_images(settings: ManagementSettings) -> "VersionImages":
    require_extra("docker")
    from skysail_management.containers.docker.images import VersionImages

    marks = {"cluster": settings.cluster, "namespace": settings.kubernetes_namespace}
    return VersionImages(marks, settings)


def _with_reason(container: Container, earlier: str) -> Container:
    """Return a container with the more specific reason, because later ones often omit the cause."""
    if container.reason and earlier.startswith(container.reason):
        return replace(container, reason=earlier)
    return container


def kubernetes_manager(settings: ManagementSettings) -> KubernetesManager:
    """Return the manager for these settings."""
    return KubernetesManager(settings)
