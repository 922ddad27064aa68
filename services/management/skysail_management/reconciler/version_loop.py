"""Keeps one model version as it is desired: prepares, starts, stops, restarts, rolls out."""

import asyncio
import logging
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import replace

from skysail_common.clock import Clock, wait_until
from skysail_common.errors import ModelNotFound, SkysailError
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.process.backoff import BackOff
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.states import ReplicaState
from skysail_management.containers.base import (
    Container,
    ContainerManager,
    PrepareFailed,
    ReplicaSpec,
    VersionSpec,
    not_started,
)
from skysail_management.containers.log_tails import timed_out
from skysail_management.events import DeployEvent, DeployEvents, DeployStep
from skysail_management.reconciler.ending import end_of_log, stop_surely
from skysail_management.reconciler.plan import HEALTHY_AFTER_S, Failures, Stop, plan
from skysail_management.reconciler.preparing import prepared
from skysail_management.reconciler.rollout import Rollout, RoutingChanged
from skysail_management.reconciler.seen import Seen
from skysail_management.reconciler.specs import ReconcilerOptions, replica_spec, version_spec
from skysail_management.reconciler.start_slots import StartSlots
from skysail_management.reconciler.starter import Starter
from skysail_management.records import DeploymentRecord, Records

log = logging.getLogger(__name__)

_LIST_AGE_S = 10.0
_RETRY_S = 1.0
_MAX_RETRY_S = 30.0


class VersionLoop:
    """One model version. Its passes never wait for those of another."""

    def __init__(
        self,
        version: ModelVersion,
        records: Records,
        manager: ContainerManager,
        events: DeployEvents,
        options: ReconcilerOptions,
        clock: Clock,
        routing_changed: RoutingChanged,
        slots: StartSlots,
        tasks: BackgroundTasks,
    ) -> None:
        """Does nothing before `run`.

        Args:
            version: The model version.
            records: The desired state.
            manager: Runs the containers.
            events: Is told what happens.
            options: What every loop needs to know.
            clock: Time.
            routing_changed: Called when a replica becomes or ceases to be ready.
            slots: Bound the starts of all versions.
            tasks: Group of the tasks of this loop, which stops them.
        """
        self.version = version
        self._records = records
        self._manager = manager
        self._events = events
        self._options = options
        self._clock = clock
        self._routing_changed = routing_changed
        self._seen: dict[str, Seen] = {}
        self._failures: dict[int, Failures] = {}
        self._last_failed: dict[int, Container] = {}
        self._wake = asyncio.Event()
        self._is_prepared = False
        self._is_suspect = False
        """True if a replica has failed since that was never ready."""
        self._tasks = tasks
        self._starter = Starter(version, manager, slots, self, tasks, clock)
        self._rollout = Rollout(version, records, events, routing_changed, lambda: self.num_ready)

    def wake(self) -> None:
        """Look again soon: the desired state may have changed."""
        self._wake.set()

    def repeat_rollout(self) -> None:
        """Begin again with a complete deployment: start its replicas at once, tell its failures."""
        self._failures.clear()
        self._rollout.repeat()

    @property
    def is_idle(self) -> bool:
        """True if no replica is desired and none is left."""
        return self._desired() is None and not self._seen and not self._starter.under_way

    @property
    def containers(self) -> list[Container]:
        """The live containers, by index."""
        live = [seen.container for seen in self._seen.values()]
        return sorted(live, key=lambda container: container.replica_id.index)

    @property
    def failed(self) -> dict[int, Container]:
        """The last failed container of each index that has no live one."""
        live = {container.replica_id.index for container in self.containers}
        return {index: box for index, box in self._last_failed.items() if index not in live}

    def num_restarts(self, index: int) -> int:
        """Return the failures of a replica since it was last well for a while."""
        failures = self._failures.get(index)
        if failures is None or self._is_healthy(index):
            return 0
        return failures.count

    def last_failed(self, index: int) -> Container | None:
        """Return the last container of a replica that failed; None if none has."""
        return self._last_failed.get(index)

    def waiting_reason(self, index: int) -> str:
        """Return for people why a replica is not started yet; empty if nothing holds it up."""
        return self._starter.waiting_reason(index)

    def _is_healthy(self, index: int) -> bool:
        now = self._clock()
        return any(
            seen.container.state is ReplicaState.READY and now - seen.since >= HEALTHY_AFTER_S
            for seen in self._seen.values()
            if seen.container.replica_id.index == index
        )

    @property
    def num_ready(self) -> int:
        """How many replicas take batches; one that runs other content takes none."""
        artifact = self._artifact()
        return sum(
            box.state is ReplicaState.READY and not box.is_outdated(artifact)
            for box in self.containers
        )

    def _artifact(self) -> str:
        record = self._records.versions.get(str(self.version))
        return record.artifact_sha256 if record else ""

    def observe(self, container: Container) -> None:
        """Record a report of the container manager about one of this version's containers."""
        before = self._seen.get(container.container_id)
        was_ready = before is not None and before.container.state is ReplicaState.READY
        has_been_ready = before is not None and before.was_ready
        now = self._clock()
        if container.state.is_live:
            if before is not None and before.container.state is ReplicaState.DRAINING:
                container = replace(container, state=ReplicaState.DRAINING)
            is_same = before is not None and before.container.state is container.state
            since = before.since if before is not None and is_same else now
            has_been_ready |= container.state is ReplicaState.READY
            self._seen[container.container_id] = Seen(container, since, has_been_ready)
        else:
            self._seen.pop(container.container_id, None)
        self._keep_slots()
        is_ready = container.state is ReplicaState.READY
        is_new_reason = before is None or before.container.reason != container.reason
        if container.state is ReplicaState.STARTING and container.reason and is_new_reason:
            message = f"{container.replica_id} is not started yet: {container.reason}"
            self._publish(DeployStep.STARTING, message, container)
        if is_ready and not was_ready:
            self._publish(DeployStep.READY, f"{container.replica_id} is ready", container)
        if container.state is ReplicaState.FAILED:
            if self._has_counted(container):
                # A resync and the watch may both find it; the later report may tell more.
                self._last_failed[container.replica_id.index] = container
            else:
                ready_since = before.since if was_ready and before is not None else None
                self._count_failure(container, ready_since, has_been_ready)
        if is_ready != was_ready:
            self._routing_changed()
        self._wake.set()

    def _has_counted(self, container: Container) -> bool:
        last = self._last_failed.get(container.replica_id.index)
        return last is not None and last.container_id == container.container_id

    def forget_missing(self, listed: Collection[str]) -> None:
        """Take containers that the manager no longer lists for gone.

        One that was started just now may be younger than the list.
        """
        for container_id, seen in list(self._seen.items()):
            is_old = self._clock() - seen.since > _LIST_AGE_S
            is_draining = seen.container.state is ReplicaState.DRAINING
            if container_id not in listed and is_old and not is_draining:
                self.observe(
                    replace(seen.container, state=ReplicaState.FAILED, reason="it disappeared")
                )

    def _keep_slots(self) -> None:
        loading = {each.index for each in self._seen.values() if each.is_loading}
        self._starter.keep_slots(loading if self._manager.loads_here else set())

    def _count_failure(
        self, container: Container, ready_since: float | None = None, was_ready: bool = False
    ) -> None:
        """Count a failure of a replica, by which the wait before its next start grows.

        Args:
            container: The container that failed.
            ready_since: Instant at which it became ready; None if it was not ready when it failed.
            was_ready: True if it has ever been ready.
        """
        index, now = container.replica_id.index, self._clock()
        # Packages or an image that someone removed may be why.
        self._is_prepared = False
        self._is_suspect |= not was_ready
        earlier = self._failures.get(index)
        was_well = ready_since is not None and now - ready_since >= HEALTHY_AFTER_S
        count = earlier.count if earlier and not was_well else 0
        self._failures[index] = Failures(count + 1, now, was_ready)
        self._last_failed[index] = container
        log.warning(
            "replica failed",
            extra={
                "replica": container.replica_id,
                "reason": container.reason,
                "failures": count + 1,
            },
        )
        if not self._rollout.note_failure(self._desired(), container):
            self._publish(
                DeployStep.RETRYING,
                f"{container.replica_id} failed: {container.reason}; it is started again",
                container,
            )
        self._wake.set()

    async def run(self) -> None:
        """Make observed match desired until there is nothing left to do for good."""
        back_off = BackOff(_RETRY_S, _MAX_RETRY_S)
        try:
            while True:
                self._wake.clear()
                try:
                    wake_at = await self._pass()
                    back_off.reset()
                except SkysailError as error:
                    log.warning(
                        "pass failed", extra={"version": self.version, "error": error.message}
                    )
                    wake_at = self._clock() + back_off.next_s()
                    self._starter.yield_turn()
                except Exception:
                    # What this version's files, engine or records do must not end its loop: the
                    # routes of the replicas that live would vanish with it.
                    log.exception("pass failed", extra={"version": self.version})
                    self._rollout.note_error(self._desired())
                    wake_at = self._clock() + back_off.next_s()
                    self._starter.yield_turn()
                if self.is_idle:
                    return
                await wait_until(self._wake, wake_at, self._clock)
        finally:
            await self._tasks.stop()
            self._starter.leave()

    def _desired(self) -> DeploymentRecord | None:
        return self._records.deployments.get(str(self.version))

    async def _pass(self) -> float:
        deployment = self._desired()
        if deployment is not None:
            await self._rollout.advance(deployment)
            deployment = self._desired()
        if deployment is None:
            self._failures.clear()
            self._last_failed.clear()
            self._rollout.reset()
            # The next deployment may be of other content under the same name.
            self._is_prepared = False
        artifact = self._artifact()
        observed = [seen.observed(artifact) for seen in self._seen.values()]
        todo = plan(
            deployment.num_replicas if deployment else 0,
            deployment.start_timeout_s if deployment else 0.0,
            observed,
            self._failures,
            self._clock(),
        )
        for stop in todo.stop:
            self._begin_stop(stop)
        self._keep_slots()
        if deployment is not None and todo.start and not self._is_prepared:
            # Other versions need not wait for this one's turn while it prepares.
            self._begin_starts((), deployment)
            await self._prepare(deployment, todo.start)
            # The desired state may have changed during the preparation.
            return self._clock()
        return min(todo.wake_at, self._begin_starts(todo.start, deployment))

    def _begin_starts(self, wanted: Sequence[int], deployment: DeploymentRecord | None) -> float:
        def spec_of(index: int) -> ReplicaSpec:
            assert deployment is not None
            is_measured = self._records.profiles.get(str(self.version)) is not None
            return replica_spec(
                self._spec(), deployment, index, self._options, self._manager, is_measured
            )

        return self._starter.begin(wanted, spec_of, deployment.start_timeout_s if deployment else 0)

    def _spec(self) -> VersionSpec:
        record = self._records.versions.get(str(self.version))
        if record is None:
            raise ModelNotFound(f"model {str(self.version)!r} is deployed but not registered")
        return version_spec(record)

    async def _prepare(self, deployment: DeploymentRecord, wanted: Sequence[int]) -> None:
        def tell(line: str) -> None:
            self._publish(DeployStep.PREPARING, line)

        tell(f"preparing the environment of {self.version}")
        try:
            self._is_prepared = await prepared(
                self._manager,
                self._spec(),
                tell,
                self._options.prepare_timeout_s,
                self._until_unwanted(),
                verifies=self._is_suspect,
            )
            self._is_suspect = self._is_suspect and not self._is_prepared
        except PrepareFailed as error:
            if not await self._rollout.fail(deployment, error.message, error.log_tail):
                why = error.message
                self._last_failed |= {each: not_started(self.version, each, why) for each in wanted}
                raise

    async def _until_unwanted(self) -> None:
        while self._desired() is not None:
            await self._wake.wait()
            self._wake.clear()

    def starting(self, replica_id: ReplicaId) -> None:
        """Tell that a replica is being started."""
        container = Container("", replica_id, ReplicaState.STARTING)
        self._publish(DeployStep.STARTING, f"{replica_id} is starting", container)

    def started(self, container: Container) -> None:
        """Note that a container was started."""
        # What the manager has reported since is newer than what its start returned.
        if container.container_id not in self._seen and not self._has_counted(container):
            self._seen[container.container_id] = Seen(container, self._clock(), was_ready=False)

    def not_started(self, replica_id: ReplicaId, reason: str) -> None:
        """Count a replica that cannot be started as one that failed."""
        self._count_failure(not_started(self.version, replica_id.index, reason))

    def start_broke(self) -> None:
        """Count an internal error as the failure of a replica, for the roll-out alone."""
        self._rollout.note_error(self._desired())

    def _begin_stop(self, stop: Stop) -> None:
        container_id = stop.container_id
        seen = self._seen[container_id]
        was_ready = seen.container.state is ReplicaState.READY
        why = f": {seen.container.reason}" if stop.is_failure and seen.container.reason else ""
        reason = f"{stop.reason}{why}"
        draining = replace(seen.container, state=ReplicaState.DRAINING, reason=reason)
        self._seen[container_id] = Seen(draining, self._clock(), seen.was_ready)
        known = self._routing_changed() if was_ready else None
        self._tasks.start(self._stop(draining, stop, known), f"stop {container_id}")

    async def _stop(self, container: Container, stop: Stop, known: Awaitable[None] | None) -> None:
        container_id = container.container_id
        log.info("stopping a replica", extra={"container": container_id, "reason": stop.reason})
        if stop.is_failure:
            container = timed_out(container, await end_of_log(self._manager, container_id))
            seen = self._seen.get(container_id)
            self._count_failure(container, was_ready=seen is not None and seen.was_ready)
        if known is not None:
            # No frontend sends to it any more before it is told to end.
            await known
        await stop_surely(self._manager, container_id, self._options.drain_timeout_s)
        self._seen.pop(container_id, None)
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
