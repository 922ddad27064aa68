"""The control loop of one model version: prepares, starts, stops, restarts and rolls out."""

import asyncio
import logging
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import replace

from skysail_common.clock import Clock, wait_until
from skysail_common.errors import ModelNotFound, SkysailError
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.process.backoff import BackOff
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.replica_description import (
    PackageDifference,
    ReplicaDescription,
    describe_differences,
)
from skysail_common.states import ReplicaState
from skysail_management.catalog.signatures import learn_signature
from skysail_management.containers.base import (
    Container,
    ContainerManager,
    PrepareFailed,
    ReplicaSpec,
    VersionSpec,
    failed_start,
)
from skysail_management.containers.exit_reasons import explain_start_timeout
from skysail_management.events import DeployEvent, DeployEvents, DeployStep
from skysail_management.reconciler.descriptions import DescribeModel, Descriptions
from skysail_management.reconciler.launcher import Launcher
from skysail_management.reconciler.observation import Observation, ReplicaHistory
from skysail_management.reconciler.plan import Stop, plan_replicas
from skysail_management.reconciler.preparation import prepare_while_wanted
from skysail_management.reconciler.rollout import PublishRouting, Rollout
from skysail_management.reconciler.specs import ReconcilerOptions, replica_spec, version_spec
from skysail_management.reconciler.start_slots import StartSlots
from skysail_management.reconciler.teardown import read_log_tail, stop_until_gone
from skysail_management.records import DeploymentRecord, Records

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_MAX_RETRY_S = 30.0


class VersionLoop:
    """The control loop of one model version; its passes never wait for those of another."""

    def __init__(
        self,
        version: ModelVersion,
        records: Records,
        manager: ContainerManager,
        events: DeployEvents,
        options: ReconcilerOptions,
        clock: Clock,
        publish_routing: PublishRouting,
        slots: StartSlots,
        tasks: BackgroundTasks,
        describe: DescribeModel,
    ) -> None:
        """Create an idle loop; `run` starts it.

        Args:
            version: The model version.
            records: The desired state.
            manager: Runs the containers.
            events: Receives the progress.
            options: Settings that all loops share.
            clock: Time.
            publish_routing: Called when a replica becomes ready or stops being ready.
            slots: Bound the concurrent starts of all versions.
            tasks: Group of the tasks of this loop, which stops them.
            describe: Asks a replica for its description.
        """
        self.version = version
        self._records = records
        self._manager = manager
        self._events = events
        self._options = options
        self._clock = clock
        self._publish_routing = publish_routing
        self.replicas = ReplicaHistory(clock)
        """The observed containers and failures."""
        self._wake = asyncio.Event()
        self._is_prepared = False
        self._is_suspect = False
        """True after a failure of a replica that was never ready, until the next preparation."""
        self._tasks = tasks
        self._launcher = Launcher(version, manager, slots, self, tasks, clock)
        self._descriptions = Descriptions(version, describe, self, tasks)
        self._rollout = Rollout(version, records, events, publish_routing, lambda: self.num_ready)

    def wake(self) -> None:
        """Schedule a pass, because the desired state may have changed."""
        self._wake.set()

    def repeat_rollout(self) -> None:
        """Repeat the rollout of a complete deployment, without backoff."""
        self.replicas.failures.clear()
        self._rollout.repeat()

    @property
    def is_idle(self) -> bool:
        """True if no replica is desired and none remains."""
        return self._desired() is None and not self.replicas.live and not self._launcher.under_way

    def waiting_reason(self, index: int) -> str:
        """Return why a replica is not started yet, for people; empty if nothing delays it."""
        return self._launcher.waiting_reason(index)

    @property
    def num_ready(self) -> int:
        """Number of replicas that take batches; one with an outdated artifact takes none."""
        return self.replicas.num_ready(self.artifact)

    @property
    def artifact(self) -> str:
        """SHA-256 of the present artifact; empty if the version is not registered."""
        record = self._records.versions.get(str(self.version))
        return record.artifact_sha256 if record else ""

    @property
    def needs_signature(self) -> bool:
        """True until the first replica has learned the signature."""
        record = self._records.versions.get(str(self.version))
        return record is not None and not record.to_signature().is_known

    @property
    def package_differences(self) -> tuple[PackageDifference, ...]:
        """Packages with other versions in a live replica than on the machine of the deploy."""
        return self._descriptions.package_differences

    def observe(self, container: Container, *, is_adopted: bool = False) -> None:
        """Record a report of the container manager about a container of this version.

        Args:
            container: The report.
            is_adopted: True if an earlier management started the container.
        """
        before = self.replicas.live.get(container.container_id)
        if container.is_outdated(self.artifact) or _is_draining(before):
            self._descriptions.forget(container.container_id)
        else:
            container = self._descriptions.admit(container, is_adopted=is_adopted)
        was_ready = before is not None and before.container.state is ReplicaState.READY
        observed = self.replicas.record(container)
        container = observed.container
        self._keep_slots()
        is_ready = container.state is ReplicaState.READY
        is_new_reason = before is None or before.container.reason != container.reason
        if container.state is ReplicaState.STARTING and container.reason and is_new_reason:
            message = f"{container.replica_id} is not started yet: {container.reason}"
            self._publish(DeployStep.STARTING, message, container)
        if is_ready and not was_ready:
            self._publish(DeployStep.READY, f"{container.replica_id} is ready", container)
        if container.state is ReplicaState.FAILED:
            if self.replicas.has_counted(container):
                # The watch and a resync may both report it; the later report may say more.
                self.replicas.update_failure(container)
            else:
                ready_since = before.since if was_ready and before is not None else None
                self._count_failure(container, ready_since, observed.was_ready)
        if is_ready != was_ready:
            self._publish_routing()
        self._wake.set()

    async def described(
        self, container: Container, artifact_sha256: str, description: ReplicaDescription
    ) -> str:
        """Record the description of a replica; see `Descriptions`."""
        problem = await learn_signature(
            self._records, self.version, artifact_sha256, description.learned_signature
        )
        if text := describe_differences(description.package_differences):
            self._publish(DeployStep.NOTICE, f"{container.replica_id}: {text}", container)
        return problem

    def reject(self, container_id: str, reason: str) -> None:
        """Stop a container as failed for good, unless it stops already."""
        observed = self.replicas.live.get(container_id)
        if observed is not None and not _is_draining(observed):
            self._begin_stop(Stop(container_id, reason, is_failure=True, is_permanent=True))

    def drop_missing(self, listed: Collection[str]) -> None:
        """Treat containers that the manager no longer lists as failed."""
        for container in self.replicas.missing(listed):
            self.observe(replace(container, state=ReplicaState.FAILED, reason="it disappeared"))

    def _keep_slots(self) -> None:
        self._launcher.keep_slots(self.replicas.loading if self._manager.loads_here else set())

    def _count_failure(
        self, container: Container, ready_since: float | None = None, was_ready: bool = False
    ) -> None:
        """Count a failure of a replica, as `ReplicaHistory.record_failure`, and publish it."""
        # Someone may have removed packages or an image, so that the next start prepares again.
        self._is_prepared = False
        self._is_suspect |= not was_ready
        count = self.replicas.record_failure(container, ready_since, was_ready)
        facts = {"replica": container.replica_id, "reason": container.reason, "failures": count}
        log.warning("replica failed", extra=facts)
        if not self._rollout.note_failure(self._desired(), container):
            self._publish(
                DeployStep.RETRYING,
                f"{container.replica_id} failed: {container.reason}; restarting it",
                container,
            )
        self._wake.set()

    async def run(self) -> None:
        """Make the observed state match the desired one until the loop is idle."""
        back_off = BackOff(_RETRY_S, _MAX_RETRY_S)
        try:
            while True:
                self._wake.clear()
                try:
                    wake_at = await self._pass()
                    back_off.reset()
                except SkysailError as error:
                    facts = {"version": self.version, "error": error.message}
                    log.warning("pass failed", extra=facts)
                    wake_at = self._clock() + back_off.next_s()
                    self._launcher.yield_turn()
                except Exception:
                    # An error in the files, engine or records of this version must not end its
                    # loop, because the routes of its live replicas would vanish.
                    log.exception("pass failed", extra={"version": self.version})
                    self._rollout.note_error(self._desired())
                    wake_at = self._clock() + back_off.next_s()
                    self._launcher.yield_turn()
                if self.is_idle:
                    return
                await wait_until(self._wake, wake_at, self._clock)
        finally:
            await self._tasks.stop()
            self._launcher.leave()

    def _desired(self) -> DeploymentRecord | None:
        return self._records.deployments.get(str(self.version))

    async def _pass(self) -> float:
        deployment = self._desired()
        if deployment is not None:
            await self._rollout.advance(deployment)
            deployment = self._desired()
        if deployment is None:
            self.replicas.clear_failures()
            self._rollout.reset()
            # The next deployment may have another artifact under the same name.
            self._is_prepared = False
        artifact = self.artifact
        observed = [each.for_plan(artifact) for each in self.replicas.live.values()]
        todo = plan_replicas(
            deployment.num_replicas if deployment else 0,
            deployment.start_timeout_s if deployment else 0.0,
            observed,
            self.replicas.failures,
            self._clock(),
        )
        for stop in todo.stop:
            self._begin_stop(stop)
        self._keep_slots()
        if deployment is not None and todo.start and not self._is_prepared:
            # This version gives up its turn while it prepares, so that others can start.
            self._begin_starts((), deployment)
            await self._prepare(deployment, todo.start)
            # The desired state may have changed during the preparation.
            return self._clock()
        return min(todo.wake_at, self._begin_starts(todo.start, deployment))

    def _begin_starts(self, wanted: Sequence[int], deployment: DeploymentRecord | None) -> float:
        def make_spec(index: int) -> ReplicaSpec:
            assert deployment is not None
            is_measured = self._records.profiles.get(str(self.version)) is not None
            return replica_spec(
                self._spec(), deployment, index, self._options, self._manager, is_measured
            )

        timeout_s = deployment.start_timeout_s if deployment else 0.0
        return self._launcher.begin(wanted, make_spec, timeout_s)

    def _spec(self) -> VersionSpec:
        record = self._records.versions.get(str(self.version))
        if record is None:
            raise ModelNotFound(f"model {str(self.version)!r} is deployed but not registered")
        return version_spec(record)

    async def _prepare(self, deployment: DeploymentRecord, wanted: Sequence[int]) -> None:
        def progress(line: str) -> None:
            self._publish(DeployStep.PREPARING, line)

        progress(f"preparing the environment of {self.version}")
        try:
            self._is_prepared = await prepare_while_wanted(
                self._manager,
                self._spec(),
                progress,
                self._options.prepare_timeout_s,
                self._wait_until_undeployed(),
                verifies=self._is_suspect,
            )
            self._is_suspect = self._is_suspect and not self._is_prepared
        except PrepareFailed as error:
            if not await self._rollout.fail(deployment, error.message, error.log_tail):
                why = error.message
                for index in wanted:
                    self.replicas.update_failure(failed_start(self.version, index, why))
                raise

    async def _wait_until_undeployed(self) -> None:
        while self._desired() is not None:
            await self._wake.wait()
            self._wake.clear()

    def starting(self, replica_id: ReplicaId) -> None:
        """Publish that a start began."""
        container = Container("", replica_id, ReplicaState.STARTING)
        self._publish(DeployStep.STARTING, f"{replica_id} is starting", container)

    def started(self, container: Container) -> None:
        """Record a started container."""
        # A report of the manager is newer than the result of its start.
        self.replicas.record_start(container)

    def start_failed(self, replica_id: ReplicaId, reason: str) -> None:
        """Count a failed start as a failure of the replica."""
        self._count_failure(failed_start(self.version, replica_id.index, reason))

    def start_crashed(self) -> None:
        """Count an internal error against the rollout only."""
        self._rollout.note_error(self._desired())

    def _begin_stop(self, stop: Stop) -> None:
        container_id = stop.container_id
        cause = self.replicas.live[container_id].container.reason
        why = f": {cause}" if stop.is_failure and cause else ""
        before = self.replicas.record_drain(container_id, f"{stop.reason}{why}")
        was_ready = before.container.state is ReplicaState.READY
        draining = self.replicas.live[container_id].container
        routed = self._publish_routing() if was_ready else None
        self._tasks.start(self._stop(draining, stop, routed), f"stop {container_id}")

    async def _stop(self, container: Container, stop: Stop, routed: Awaitable[None] | None) -> None:
        container_id = container.container_id
        log.info("replica stopping", extra={"container": container_id, "reason": stop.reason})
        if stop.is_failure:
            tail = await read_log_tail(self._manager, container_id)
            if stop.is_permanent:
                container = replace(container, is_permanent=True, log_tail=tail)
            else:
                container = explain_start_timeout(container, tail)
            last = self.replicas.live.get(container_id)
            self._count_failure(container, was_ready=last is not None and last.was_ready)
        if routed is not None:
            # Frontends stop sending batches to a replica before it drains.
            await routed
        await stop_until_gone(self._manager, container_id, self._options.drain_timeout_s)
        self.replicas.live.pop(container_id, None)
        self._wake.set()

    def _publish(self, step: DeployStep, message: str, container: Container | None = None) -> None:
        deployment = self._desired()
        self._events.publish(
            self.version,
            DeployEvent(
                step,
                message,
                replica_id=str(container.replica_id) if container else "",
                log_tail=container.log_tail if container else "",
                num_ready=self.num_ready,
                num_replicas=deployment.num_replicas if deployment else 0,
            ),
        )


def _is_draining(observed: Observation | None) -> bool:
    return observed is not None and observed.container.state is ReplicaState.DRAINING
