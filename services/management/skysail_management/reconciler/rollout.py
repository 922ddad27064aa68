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
    `removes_version_on_failure`), so that another management process can finish it.
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

    def reset(self) -> None:
        """Forget the failures of an earlier deployment."""
        self._num_failures = 0
        self._verdict = None

    def note_failure(self, deployment: DeploymentRecord | None, container: Container) -> bool:
        """Count a failed replica; return True if the roll-out is given up because of it."""
        if deployment is None or deployment.is_rolled_out:
            return False
        self._num_failures += 1
        if not container.is_permanent and self._num_failures < MAX_ATTEMPTS:
            return False
        self._verdict = (f"{container.replica_id} failed: {container.reason}", container.log_tail)
        return True

    async def advance(self, deployment: DeploymentRecord, num_ready: int) -> bool:
        """Complete or give up the roll-out if it is time; return True if records changed.

        Raises:
            SkysailError: the records cannot be changed now.
        """
        if self._verdict is not None:
            return await self.fail(deployment, *self._verdict)
        if num_ready < deployment.num_replicas:
            return False
        is_open = not deployment.is_rolled_out or deployment.promote_when_ready
        if is_open:
            await self._complete(deployment)
        self._done(deployment, num_ready)
        return is_open

    async def _complete(self, deployment: DeploymentRecord) -> None:
        async with self._records.lock:
            promotes = await self._commit_completion(deployment)
        # Whoever hears that it is done may ask a frontend at once.
        await self._routing_changed()
        if promotes:
            self._publish(DeployStep.PROMOTED, f"{self._version} is the current version")
        log.info("roll-out is complete", extra={"version": self._version})

    async def _commit_completion(self, deployment: DeploymentRecord) -> bool:
        name = str(self._version)
        finished = deployment.model_copy(
            update={
                "is_rolled_out": True,
                "promote_when_ready": False,
                "removes_version_on_failure": False,
            }
        )
        changes = [self._records.deployments.put(name, finished)]
        model = self._records.models.get(self._version.model_name)
        promotes = deployment.promote_when_ready and model is not None
        if promotes and model is not None and model.current_version != self._version.version:
            changes.append(self._records.models.put(model.name, promoted(model, self._version)))
        await self._records.commit(changes)
        return promotes

    def _done(self, deployment: DeploymentRecord, num_ready: int) -> None:
        self._num_failures = 0
        self._events.publish(
            self._version,
            DeployEvent(
                DeployStep.DONE,
                f"{self._version} is deployed",
                num_ready=num_ready,
                num_replicas=deployment.num_replicas,
            ),
        )

    async def fail(self, deployment: DeploymentRecord, message: str, log_tail: str) -> bool:
        """Undo a roll-out that is not complete and tell so; return False for a complete one.

        Raises:
            SkysailError: the records cannot be changed now.
        """
        if deployment.is_rolled_out:
            return False
        async with self._records.lock:
            changes: list[PendingChange] = [self._records.deployments.delete(str(self._version))]
            if deployment.removes_version_on_failure:
                changes += removal_of_version(self._records, self._version)
            await self._records.commit(changes)
        self.reset()
        log.warning("roll-out is given up", extra={"version": self._version, "reason": message})
        self._publish(DeployStep.FAILED, message, log_tail)
        return True

    def _publish(self, step: DeployStep, message: str, log_tail: str = "") -> None:
        self._events.publish(self._version, DeployEvent(step, message, log_tail=log_tail))


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
