"""The container manager `docker`: a replica is a container of a Docker engine.

Its image contains the artifact, so that the replica needs no network. It listens on a unix socket
in a mounted directory of this machine. With the setting docker-network it listens on that network
instead.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from skysail_common.clock import MONOTONIC
from skysail_common.docker.engine import EngineRefused
from skysail_common.errors import ContainerManagerUnavailable, SkysailError, Unsupported
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.process.backoff import BackOff
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.process.threads import in_thread
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
from skysail_management.containers.docker.containers import ClusterContainers
from skysail_management.containers.docker.images import VersionImages
from skysail_management.containers.exit_reasons import SILENT
from skysail_management.containers.gpus import GpuReservation, Gpus, find_devices
from skysail_management.containers.readiness import watch_readiness
from skysail_management.containers.replica_launch import GPUS_LABEL
from skysail_management.settings import ManagementSettings

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_KILL_TIMEOUT_S = 60.0


@dataclass
class _DockerReplica:
    container: Container
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    is_stopping: bool = False
    is_silent: bool = False
    """True after a kill because it did not answer."""
    readiness: "asyncio.Task[None] | None" = None
    """Task that watches its health; None until the container runs."""


class DockerEngineManager(ContainerManager):
    """Runs replicas as containers of a Docker engine."""

    name = "docker"

    def __init__(self, settings: ManagementSettings) -> None:
        """Label all objects with the cluster and the data directory of these settings."""
        marks = {"cluster": settings.cluster, "data-dir": str(settings.data_dir.resolve())}
        self._cpus = settings.docker_cpus
        self._settings = settings
        self._devices: tuple[str, ...] = ()
        self._containers = ClusterContainers(marks, settings)
        self._images = VersionImages(marks, settings)
        self._replicas: dict[str, _DockerReplica] = {}
        self._changes = ChangeFeed()
        self._tasks = BackgroundTasks(self._changes.fail)

    def check_resources(self, resources: Resources) -> None:
        """Reject more GPUs than the known devices, and fractions if no devices are known."""
        if self._devices:
            Gpus(self._devices).check(resources.gpus)
        elif 0 < resources.gpus < 1:
            raise Unsupported(
                "cannot reserve a fraction of a GPU: management does not know the devices of the "
                "engine; name them in the setting gpu-devices"
            )

    def default_threads(self, num_replicas: int) -> int:
        """Return the CPUs of a replica, or its share of the cores if no limit is set."""
        return ceil(self._cpus) or super().default_threads(num_replicas)

    async def open(self) -> None:
        """Adopt the containers that an earlier management left running."""
        await self._containers.open()
        self._devices = await in_thread(
            find_devices, self._settings.gpu_devices, self._settings.replica_variables()
        )
        for found in await self._containers.list():
            if found.is_running:
                replica = _DockerReplica(found.container)
                self._replicas[found.container.container_id] = replica
                self._follow(replica)
                log.info("replica adopted", extra={"replica": found.container.replica_id})
        await self._images.open()
        self._tasks.start_essential(self._watch_exits(), "events of the Docker engine")

    async def close(self) -> None:
        """Release all containers without stopping them.

        If none is live, only images remain on the engine, for the next management.
        """
        await self._tasks.stop()
        if not self._replicas:
            try:
                await self._remove_ended(set())
            except ContainerManagerUnavailable as error:
                log.warning("ended containers not removed", extra={"error": error.message})
            await self._containers.clean_up()
        await self._images.close()
        await self._containers.close()

    async def prepare(
        self, version: VersionSpec, progress: Progress, *, verifies: bool = False
    ) -> None:
        """Build the image of the version, unless it exists."""
        await self._images.prepare(version, progress)

    async def start(self, spec: ReplicaSpec) -> Container:
        """Start a container and return it as STARTING."""
        image = self._images.image(spec.version)
        replica = _DockerReplica(self._with_gpus(self._containers.new_container(spec), spec))
        name = replica.container.container_id
        # The replica is registered before its container starts, because the container may end
        # before this coroutine continues.
        self._replicas[name] = replica
        endpoint = ""
        try:
            endpoint = await self._containers.run(replica.container, spec, image)
        finally:
            if not endpoint:
                self._replicas.pop(name, None)
        replica.container = replace(replica.container, endpoint=endpoint)
        if name in self._replicas:
            self._follow(replica)
        return replica.container

    def _with_gpus(self, container: Container, spec: ReplicaSpec) -> Container:
        """Reserve the GPUs of a container by a label, which the next management reads."""
        if not self._devices or not spec.resources.gpus:
            return container
        gpus = Gpus(self._devices)
        for name, each in self._replicas.items():
            label = each.container.labels.get(GPUS_LABEL, "")
            gpus.hold(name, GpuReservation.from_label(label))
        reserved = gpus.take(container.container_id, spec.resources.gpus)
        if reserved is None:
            raise SkysailError(gpus.why_waiting(spec.resources.gpus))
        return replace(container, labels={**container.labels, GPUS_LABEL: reserved.to_label()})

    async def stop(self, container_id: str, drain_timeout_s: float) -> None:
        """Drain a container, and return when it is gone."""
        replica = self._replicas.get(container_id)
        if replica is None:
            return
        replica.is_stopping = True
        self._set(replica, ReplicaState.DRAINING)
        await self._containers.signal(container_id, "SIGTERM")
        try:
            await asyncio.wait_for(replica.gone.wait(), drain_timeout_s)
        except asyncio.TimeoutError:
            log.warning("replica not drained in time", extra={"container": container_id})
            await self._containers.signal(container_id, "SIGKILL")
            try:
                await asyncio.wait_for(replica.gone.wait(), _KILL_TIMEOUT_S)
            except asyncio.TimeoutError:
                raise SkysailError(f"cannot kill container {container_id}") from None

    async def list(self) -> Sequence[Container]:
        """Return every live container that the engine reports."""
        await self._resync()
        # A replica without a readiness watch has no running container yet.
        return [each.container for each in self._replicas.values() if each.readiness is not None]

    def watch(self) -> AsyncIterator[Container]:
        """Yield each container when its state changes."""
        return self._changes.watch()

    def logs(self, container_id: str, tail_lines: int, follow: bool) -> AsyncIterator[str]:
        """Yield the last lines of a log and, if `follow`, new lines."""
        return self._containers.logs(container_id, tail_lines, follow)

    async def sweep(self, needed: Needed) -> None:
        """Remove ended containers, and unused images.

        The last failure of each replica of a needed version stays, so that its log can be read.
        """
        await self._remove_ended({spec.model_version for spec in needed()})
        await self._images.sweep(needed)

    async def _remove_ended(self, kept: Collection[ModelVersion]) -> None:
        last: dict[ReplicaId, str] = {}
        for found in await self._containers.list():
            name, replica_id = found.container.container_id, found.container.replica_id
            if name in self._replicas or found.is_running:
                continue
            if replica_id.model_version not in kept:
                await self._containers.remove(name)
                continue
            if replica_id in last:
                await self._containers.remove(last[replica_id])
            last[replica_id] = name

    async def _watch_exits(self) -> None:
        """Handle the end of every container, even if the engine was unreachable then."""
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            try:
                async with self._containers.watch_exits() as names:
                    # The stream reports only later ends, so that a resync finds the earlier ones.
                    await self._resync()
                    back_off.reset()
                    async for name in names:
                        await self._handle_end(name)
            except ContainerManagerUnavailable as error:
                log.warning("engine unreachable", extra={"error": error.message})
            except EngineRefused as error:
                log.error("engine events refused", extra={"error": error.message})
            except Exception:
                log.exception("engine watch failed")
            await asyncio.sleep(back_off.next_s())

    async def _resync(self) -> None:
        """Correct the observed containers by the list of the engine."""
        started = [name for name, each in self._replicas.items() if each.readiness is not None]
        found = {each.container.container_id: each for each in await self._containers.list()}
        running = {name for name, each in found.items() if each.is_running}
        for name in started:
            if name not in running:
                await self._handle_end(name)
        for name in running:
            # The container may have ended since the list was taken.
            if name in self._replicas or not await self._containers.is_running(name):
                continue
            # A concurrent resync may have adopted it during the request.
            if name not in self._replicas:
                self._replicas[name] = replica = _DockerReplica(found[name].container)
                self._follow(replica)
                log.warning(
                    "replica adopted again", extra={"replica": replica.container.replica_id}
                )

    async def _handle_end(self, name: str) -> None:
        """Handle the end of a container; log an unexpected error, because the next `list` retries.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
        """
        try:
            await self._report_end(name)
        except ContainerManagerUnavailable:
            raise
        except Exception:
            log.exception("container end not handled", extra={"container": name})

    async def _report_end(self, name: str) -> None:
        replica = self._replicas.get(name)
        if replica is None:
            return
        failed = await self._containers.inspect_exit(replica.container)
        # The start, or another report of the end, may have removed it in the meantime.
        if self._replicas.pop(name, None) is None:
            return
        if replica.readiness is not None:
            replica.readiness.cancel()
        if replica.is_stopping:
            await self._containers.remove(name)
            self._set(replica, ReplicaState.STOPPED)
        else:
            self._containers.remove_traces(name)
            if replica.is_silent:
                failed = replace(failed, reason=SILENT)
            replica.container = failed
            self._changes.publish(failed)
        # The end is reported last, because its waiter may start another container.
        replica.gone.set()

    def _follow(self, replica: _DockerReplica) -> None:
        name = f"readiness of {replica.container.container_id}"
        replica.readiness = self._tasks.start(
            retry_until_done(lambda: self._watch_readiness(replica), name), name
        )

    async def _watch_readiness(self, replica: _DockerReplica) -> None:
        name = replica.container.container_id
        async for is_ready in watch_readiness(replica.container.endpoint, MONOTONIC):
            if replica.is_stopping:
                return
            if is_ready is None:
                log.error("silent replica killed", extra={"container": name})
                replica.is_silent = True
                await self._containers.signal(name, "SIGKILL")
                return
            self._containers.mark_ready(name, is_ready)
            state = ReplicaState.READY if is_ready else ReplicaState.STARTING
            if replica.container.state is not state:
                self._set(replica, state)

    def _set(self, replica: _DockerReplica, state: ReplicaState) -> None:
        replica.container = replace(replica.container, state=state)
        self._changes.publish(replica.container)


def docker_engine_manager(settings: ManagementSettings) -> DockerEngineManager:
    """Return the manager for these settings."""
    return DockerEngineManager(settings)
