"""Runs one loop a model version and passes on reports of the container manager."""

import asyncio
import logging

from skysail_common.clock import Clock
from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.states import ReplicaState
from skysail_management.artifacts import ArtifactStore
from skysail_management.containers.base import Container, ContainerManager, VersionSpec
from skysail_management.events import DeployEvents
from skysail_management.reconciler.specs import ReconcilerOptions, version_spec
from skysail_management.reconciler.start_slots import StartSlots
from skysail_management.reconciler.version_loop import VersionLoop
from skysail_management.records import Records
from skysail_management.routing import Routing

log = logging.getLogger(__name__)

_RESYNC_S = 30.0


class Reconciler:
    """Makes containers match the deployments in the records."""

    def __init__(
        self,
        records: Records,
        manager: ContainerManager,
        artifacts: ArtifactStore,
        events: DeployEvents,
        routing: Routing,
        options: ReconcilerOptions,
        clock: Clock,
        tasks: BackgroundTasks,
    ) -> None:
        """Does nothing before `start`; failures of its tasks are those of `tasks`."""
        self._records = records
        self._manager = manager
        self._artifacts = artifacts
        self._events = events
        self._routing = routing
        self._options = options
        self._clock = clock
        limit = options.max_concurrent_starts or manager.max_concurrent_starts()
        self._slots = StartSlots(limit, clock)
        self._loops: dict[ModelVersion, VersionLoop] = {}
        self._tasks = tasks.group()

    async def start(self) -> None:
        """Take over what runs, then begin to reconcile.

        Raises:
            ContainerManagerUnavailable: the container manager does not answer.
        """
        await self._manager.open()
        await self._resync()
        self._tasks.start_essential(self._watch(), "container changes")
        self._tasks.start_essential(self._resync_often(), "resync")

    async def stop(self) -> None:
        """End all loops; containers go on."""
        await self._tasks.stop()
        await self._manager.close()

    async def stop_all_containers(self) -> None:
        """Drain and stop every container, regardless of deployments."""
        await self._tasks.stop()
        try:
            await stop_all(self._manager, self._options.drain_timeout_s)
            await self._manager.sweep(self._kept)
        finally:
            await self._manager.close()

    def wake_all(self) -> None:
        """Say that the desired state of anything may have changed."""
        for deployment in self._records.deployments.all():
            self._loop(deployment.model_version)
        for loop in self._loops.values():
            loop.wake()
        self.publish_routing()

    def wake(self, version: ModelVersion) -> None:
        """Say that the desired state of a version may have changed."""
        self._loop(version).wake()
        self.publish_routing()

    def repeat_rollout(self, version: ModelVersion) -> None:
        """Retry a completed deployment whose replicas no longer come up."""
        self._loop(version).repeat_rollout()

    def publish_routing(self) -> "asyncio.Future[None]":
        """Send a new snapshot; the returned future is done once every frontend applied it."""
        return self._routing.publish(self.containers())

    def containers(self) -> list[Container]:
        """Return every live container."""
        return [box for loop in self._loops.values() for box in loop.containers]

    def version_loop(self, version: ModelVersion) -> VersionLoop | None:
        """Return the observed state of a version that runs, or None."""
        return self._loops.get(version)

    def num_ready(self, version: ModelVersion) -> int:
        """Return how many replicas of a version take batches."""
        loop = self._loops.get(version)
        return loop.num_ready if loop else 0

    def _loop(self, version: ModelVersion) -> VersionLoop:
        loop = self._loops.get(version)
        if loop is None:
            loop = VersionLoop(
                version,
                self._records,
                self._manager,
                self._events,
                self._options,
                self._clock,
                self.publish_routing,
                self._slots,
                self._tasks.group(),
            )
            self._loops[version] = loop
            self._tasks.start(self._run(loop), f"reconciler of {version}")
        return loop

    async def _run(self, loop: VersionLoop) -> None:
        try:
            await loop.run()
            while not loop.is_idle:
                # Something was asked for while it was about to end.
                await loop.run()
        finally:
            del self._loops[loop.version]
        await self._sweep()

    async def _watch(self) -> None:
        async for container in self._manager.watch():
            self._observe(container)

    def _observe(self, container: Container) -> None:
        try:
            self._loop(container.replica_id.model_version).observe(container)
        except Exception:
            # One container must not hide the others; a resync tries it again.
            log.exception("a report is not taken", extra={"container": container.container_id})

    async def _resync_often(self) -> None:
        while True:
            await asyncio.sleep(_RESYNC_S)
            try:
                await self._resync()
                await self._sweep()
            except SkysailError as error:
                log.warning("resync failed", extra={"error": error.message})
            except Exception:
                log.exception("resync failed")

    async def _resync(self) -> None:
        listed = {box.container_id: box for box in await self._manager.list()}
        for loop in list(self._loops.values()):
            loop.drop_missing(listed)
        known = {box.container_id: box.state for box in self.containers()}
        for container in listed.values():
            state = known.get(container.container_id)
            # An unknown container that has failed was counted when it failed.
            is_news = container.state.is_live if state is None else state is not container.state
            if is_news and state is not ReplicaState.DRAINING:
                self._observe(container)
        self.wake_all()

    def _kept(self) -> list[VersionSpec]:
        return [version_spec(record) for record in self._records.versions.all()]

    async def _sweep(self) -> None:
        try:
            await self._manager.sweep(self._kept)
            self._artifacts.sweep(
                {record.artifact_sha256 for record in self._records.versions.all()}
            )
        except SkysailError as error:
            log.warning("sweep failed", extra={"error": error.message})
        except Exception:
            # Remains only cost room, and the next sweep tries again.
            log.exception("sweep failed")


async def stop_all(manager: ContainerManager, drain_timeout_s: float) -> None:
    """Drain and stop every container of a manager, all at once.

    Raises:
        SkysailError: one cannot be stopped; all others are.
    """
    containers = await manager.list()
    outcomes = await asyncio.gather(
        *(manager.stop(container.container_id, drain_timeout_s) for container in containers),
        return_exceptions=True,
    )
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
