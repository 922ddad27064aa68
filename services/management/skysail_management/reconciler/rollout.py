"""The first time a deployment comes up: it is completed, or undone as if it had never been."""

import logging
from collections.abc import Awaitable, Callable

from skysail_common.identifiers import ModelVersion
from skysail_management.containers.base import Container
from skysail_management.events import DeployEvent, DeployEvents, DeployStep
from skysail_management.records import DeploymentRecord, ModelRecord, PendingChange, Records

log = logging.getLogger(__name__)

RoutingChanged = Callable[[], Awaitable[None]]
"""Sends new routes; what it returns is done once every frontend applied them."""

MAX_ATTEMPTS = 3
"""Failures of replicas after which a roll-out is given up."""

_MAX_PREVIOUS_VERSIONS = 50


class Rollout:
    """The roll-out of one model version.

    What is to come of it stands in the records (`promote_when_ready`,
    `removes_version_on_failure`), so that another management process can finish it. Operators may
    change the records meanwhile: what is written is the record as it is then, with other flags.
    """

    def __init__(
        self,
        version: ModelVersion,
        records: Records,
        events: DeployEvents,
        routing_changed: RoutingChanged,
    ) -> None:
        """See `VersionLoop` for the arguments."""
        self._version = version
        self._records = records
        self._events = events
        self._routing_changed = routing_changed
        self._num_failures = 0
        self._verdict: tuple[str, str] | None = None
        self._is_repeated = False

    def reset(self) -> None:
        """Forget the failures of an earlier deployment."""
        self._num_failures = 0
        self._verdict = None
        self._is_repeated = False

    def repeat(self) -> None:
        """Begin again with a complete deployment: failures are told, but nothing is undone."""
        self.reset()
        self._is_repeated = True

    def note_failure(self, deployment: DeploymentRecord | None, container: Container) -> bool:
        """Count a failed replica; return True if the roll-out is given up because of it."""
        message = failure_text(container, deployment.memory_mib if deployment else 0)
        return self._count(deployment, message, container.log_tail, container.is_permanent)

    def note_error(self, deployment: DeploymentRecord | None) -> bool:
        """Count a mistake of ours as the failure of a replica."""
        message = f"{self._version} cannot be deployed: internal error; see the log of management"
        return self._count(deployment, message, "", is_permanent=False)

    def _count(
        self, deployment: DeploymentRecord | None, message: str, log_tail: str, is_permanent: bool
    ) -> bool:
        if deployment is None or (deployment.is_rolled_out and not self._is_repeated):
            return False
        self._num_failures += 1
        if not is_permanent and self._num_failures < MAX_ATTEMPTS:
            return False
        self._verdict = (message, log_tail)
        return True

    async def advance(self, deployment: DeploymentRecord, num_ready: int) -> None:
        """Complete or give up the roll-out if it is time; records may change.

        Raises:
            SkysailError: the records cannot be changed now.
        """
        if self._verdict is not None:
            await self.fail(deployment, *self._verdict)
        elif num_ready >= deployment.num_replicas:
            is_open = not deployment.is_rolled_out or deployment.promote_when_ready
            done = await self._complete(deployment, num_ready) if is_open else deployment
            if done is not None:
                self._done(done, num_ready)

    def _fresh(self, seen: DeploymentRecord) -> DeploymentRecord | None:
        """Return the deployment as it is now; None where it is gone or another took its name."""
        fresh = self._records.deployments.get(str(self._version))
        if fresh is None or fixed_part(fresh) != fixed_part(seen):
            self.reset()
            return None
        return fresh

    async def _complete(self, seen: DeploymentRecord, num_ready: int) -> DeploymentRecord | None:
        async with self._records.lock:
            fresh = self._fresh(seen)
            if fresh is None or num_ready < fresh.num_replicas:
                return None
            await self._commit_completion(fresh)
        # Whoever hears that it is done may ask a frontend at once.
        await self._routing_changed()
        if fresh.promote_when_ready:
            self._publish(DeployStep.PROMOTED, f"{self._version} is the current version")
        log.info("roll-out is complete", extra={"version": self._version})
        return fresh

    async def _commit_completion(self, deployment: DeploymentRecord) -> None:
        finished = deployment.model_copy(
            update={
                "is_rolled_out": True,
                "promote_when_ready": False,
                "removes_version_on_failure": False,
            }
        )
        changes: list[PendingChange] = [self._records.deployments.put(str(self._version), finished)]
        model = self._records.models.get(self._version.model_name)
        is_other = model is not None and model.current_version != self._version.version
        if deployment.promote_when_ready and model is not None and is_other:
            changes.append(self._records.models.put(model.name, promoted(model, self._version)))
        await self._records.commit(changes)

    def _done(self, deployment: DeploymentRecord, num_ready: int) -> None:
        self.reset()
        self._events.publish(
            self._version,
            DeployEvent(
                DeployStep.DONE,
                f"{self._version} is deployed",
                num_ready=num_ready,
                num_replicas=deployment.num_replicas,
            ),
        )

    async def fail(self, seen: DeploymentRecord, message: str, log_tail: str) -> bool:
        """Undo a roll-out that is not complete and tell so; return False where it stays deployed.

        Raises:
            SkysailError: the records cannot be changed now.
        """
        async with self._records.lock:
            fresh = self._fresh(seen)
            if fresh is None:
                return True
            if fresh.is_rolled_out and not self._is_repeated:
                self.reset()
                return False
            await self._records.commit(self._undoing(fresh))
        self.reset()
        log.warning("roll-out is given up", extra={"version": self._version, "reason": message})
        self._publish(DeployStep.FAILED, message, log_tail)
        return not fresh.is_rolled_out

    def _undoing(self, deployment: DeploymentRecord) -> list[PendingChange]:
        name = str(self._version)
        if deployment.is_rolled_out:
            # It was well before. Should it come up later, nobody expects it to be promoted.
            stays = deployment.model_copy(update={"promote_when_ready": False})
            return [self._records.deployments.put(name, stays)]
        changes: list[PendingChange] = [self._records.deployments.delete(name)]
        if deployment.removes_version_on_failure:
            changes += removal_of_version(self._records, self._version)
        return changes

    def _publish(self, step: DeployStep, message: str, log_tail: str = "") -> None:
        self._events.publish(self._version, DeployEvent(step, message, log_tail=log_tail))


def fixed_part(deployment: DeploymentRecord) -> tuple[object, ...]:
    """Return what never changes of a deployment: with other values it is another one."""
    return (
        deployment.num_threads,
        deployment.memory_mib,
        deployment.cpus,
        deployment.gpus,
        deployment.environment,
    )


def failure_text(container: Container, memory_mib: int) -> str:
    """Return how a replica failed, with the limit of its memory where that may be why."""
    text = f"{container.replica_id} failed: {container.reason}"
    # A limit that is too low shows in many ways: no thread can be started, a library aborts, nothing
    # goes on. Only what Python itself raised is known to be something else.
    is_known = container.is_permanent and "MemoryError" not in container.log_tail
    # What listens nowhere has not run: no machine had room for it, say.
    if not memory_mib or is_known or not container.endpoint:
        return text
    return f"{text}; its memory limit is {memory_mib} MiB, which may be too low"


def promoted(model: ModelRecord, version: ModelVersion) -> ModelRecord:
    """Return the model with this version as the current one, and the history to go back."""
    previous = [name for name in model.previous_versions if name != version.version]
    if model.current_version:
        previous.append(model.current_version)
    return model.model_copy(
        update={
            "current_version": version.version,
            "previous_versions": tuple(previous[-_MAX_PREVIOUS_VERSIONS:]),
        }
    )


def removal_of_version(records: Records, version: ModelVersion) -> list[PendingChange]:
    """Return the changes that remove a version, and its model with the last version of it."""
    name = str(version)
    changes = [records.versions.delete(name), records.profiles.delete(name)]
    model = records.models.get(version.model_name)
    if model is None:
        return changes
    others = [
        record
        for record in records.versions.all()
        if record.model == version.model_name and record.version != version.version
    ]
    if not others:
        changes.append(records.models.delete(model.name))
        return changes
    previous = tuple(name for name in model.previous_versions if name != version.version)
    current = "" if model.current_version == version.version else model.current_version
    if (previous, current) != (model.previous_versions, model.current_version):
        update = {"previous_versions": previous, "current_version": current}
        changes.append(records.models.put(model.name, model.model_copy(update=update)))
    return changes
