"""The reconciler: one control loop for each model version, fed by the container manager."""

import asyncio
import logging

from skysail_common.clock import Clock
from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.states import ReplicaState
from skysail_management.artifacts.store import ArtifactStore
from skysail_management.containers.base import Container, ContainerManager, VersionSpec
from skysail_management.containers.description import describe_model
from skysail_management.events import DeployEvents
from skysail_management.reconciler.descriptions import DescribeModel
from skysail_management.reconciler.specs import ReconcilerOptions, version_spec
from skysail_management.reconciler.start_slots import StartSlots
from skysail_management.reconciler.version_loop import VersionLoop
from skysail_management.records import Records
from skysail_management.routing import Routing

log = logging.getLogger(__name__)

_RESYNC_S = 30.0


class Reconciler:
    """Makes the containers match the deployments in the records."""

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
        describe: DescribeModel = describe_model,
    ) -> None:
        """Create an idle reconciler; failures of its tasks go to the owner of `tasks`."""
        self._describe = describe
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
        """Adopt the running containers, then start to reconcile.

        Raises:
            ContainerManagerUnavailable: the container manager does not answer.
        """
        await self._manager.open()
        await self._resync(is_adopted=True)
        self._tasks.start_essential(self._watch(), "container changes")
        self._tasks.start_essential(self._resync_often(), "resync")

    async def stop(self) -> None:
        """Stop all loops; containers keep running."""
        await self._tasks.stop()
        await self._manager.close()

    async def stop_all_containers(self) -> None:
        """Drain and stop every container, regardless of deployments."""
        await self._tasks.stop()
        try:
            await stop_all(self._manager, self._options.drain_timeout_s)
            await self._manager.sweep(self._needed_specs)
        finally:
            await self._manager.close()

    def wake_all(self) -> None:
        """Wake every loop, because any desired state may have changed."""
        for deployment in self._records.deployments.all():
            self._loop(deployment.model_version)
        for loop in self._loops.values():
            loop.wake()
        self.publish_routing()

    def wake(self, version: ModelVersion) -> None:
        """Wake the loop of a version, because its desired state may have changed."""
        self._loop(version).wake()
        self.publish_routing()

    def repeat_rollout(self, version: ModelVersion) -> None:
        """Repeat the rollout of a complete deployment whose replicas all failed."""
        self._loop(version).repeat_rollout()

    def publish_routing(self) -> "asyncio.Future[None]":
        """Publish a new snapshot; the returned future is done when every frontend applied it."""
        return self._routing.publish(self.containers())

    def containers(self) -> list[Container]:
        """Return every live container."""
        return [each for loop in self._loops.values() for each in loop.replicas.containers]

    def version_loop(self, version: ModelVersion) -> VersionLoop | None:
        """Return the control loop of a version, or None if the version does not run."""
        return self._loops.get(version)

    def num_ready(self, version: ModelVersion) -> int:
        """Return the number of replicas of a version that take batches."""
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
                self._describe,
            )
            self._loops[version] = loop
            self._tasks.start(self._run(loop), f"reconciler of {version}")
        return loop

    async def _run(self, loop: VersionLoop) -> None:
        try:
            await loop.run()
            while not loop.is_idle:
                # A request arrived while the loop was about to end.
                await loop.run()
        finally:
            del self._loops[loop.version]
        await self._sweep()

    async def _watch(self) -> None:
        async for container in self._manager.watch():
            self._observe(container)

    def _observe(self, container: Container, *, is_adopted: bool = False) -> None:
        try:
            loop = self._loop(container.replica_id.model_version)
            loop.observe(container, is_adopted=is_adopted)
        except Exception:
            # A report about one container must not block the others; the next resync retries it.
            log.exception(
                "container report not handled", extra={"container": container.container_id}
            )

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

    async def _resync(self, *, is_adopted: bool = False) -> None:
        listed = {each.container_id: each for each in await self._manager.list()}
        for loop in list(self._loops.values()):
            loop.drop_missing(listed)
        known = {each.container_id: each.state for each in self.containers()}
        for container in listed.values():
            state = known.get(container.container_id)
            # The failure of an unknown failed container was already counted.
            is_news = container.state.is_live if state is None else state is not container.state
            if is_news and state is not ReplicaState.DRAINING:
                self._observe(container, is_adopted=is_adopted)
        self.wake_all()

    def _needed_specs(self) -> list[VersionSpec]:
        return [version_spec(record) for record in self._records.versions.all()]

    async def _sweep(self) -> None:
        try:
            await self._manager.sweep(self._needed_specs)
            self._artifacts.sweep(
                {record.artifact_sha256 for record in self._records.versions.all()}
            )
        except SkysailError as error:
            log.warning("sweep failed", extra={"error": error.message})
        except Exception:
            # Leftovers only cost disk space, and the next sweep retries.
            log.exception("sweep failed")


async def stop_all(manager: ContainerManager, drain_timeout_s: float) -> None:
    """Drain and stop every container of a manager concurrently.

    Raises:
        SkysailError: a container cannot be stopped; all others are stopped.
    """
    containers = await manager.list()
    outcomes = await asyncio.gather(
        *(manager.stop(container.container_id, drain_timeout_s) for container in containers),
        return_exceptions=True,
    )
    for outcome in outcomes:
        if outcome is not None:
            raise outcome
