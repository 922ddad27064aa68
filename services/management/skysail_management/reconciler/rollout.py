"""The rollout of a new deployment: completed, or undone without a trace."""

import logging
from collections.abc import Awaitable, Callable

from skysail_common.identifiers import ModelVersion
from skysail_management.catalog.current_version import promotion_changes
from skysail_management.catalog.deployment_specs import template_of
from skysail_management.catalog.rules import reason_to_keep
from skysail_management.catalog.versions import removal_changes
from skysail_management.containers.base import Container
from skysail_management.events import DeployEvent, DeployEvents, DeployStep
from skysail_management.records import DeploymentRecord, PendingChange, Records

log = logging.getLogger(__name__)

PublishRouting = Callable[[], Awaitable[None]]
"""Publishes new routes; the result is done when every frontend applied them."""

MAX_ATTEMPTS = 3
"""Failures of replicas after which a rollout fails."""


class Rollout:
    """The rollout of one model version.

    The records hold the remaining steps (`promote_when_ready`, `application`,
    `removes_version_on_failure`), so that another management process can finish the rollout. Operators may change the records at any
    time. Each decision therefore reads the records and the replicas under the lock of the records.
    """

    def __init__(
        self,
        version: ModelVersion,
        records: Records,
        events: DeployEvents,
        publish_routing: PublishRouting,
        num_ready: Callable[[], int],
    ) -> None:
        """Create an idle rollout; see `VersionLoop`; `num_ready` counts ready replicas."""
        self._version = version
        self._records = records
        self._events = events
        self._publish_routing = publish_routing
        self._num_ready = num_ready
        self._num_failures = 0
        self._verdict: tuple[str, str] | None = None
        self._is_repeated = False

    def reset(self) -> None:
        """Clear the failures of an earlier deployment."""
        self._num_failures = 0
        self._verdict = None
        self._is_repeated = False

    def repeat(self) -> None:
        """Repeat the rollout of a complete deployment, so that failures are published, not undone."""
        self.reset()
        self._is_repeated = True

    def note_failure(self, deployment: DeploymentRecord | None, container: Container) -> bool:
        """Count a failed replica; return True if the rollout fails because of it."""
        message = failure_text(container, deployment.resources.memory_mib if deployment else 0)
        return self._count(deployment, message, container.log_tail, container.is_permanent)

    def note_error(self, deployment: DeploymentRecord | None) -> bool:
        """Count an internal error as the failure of a replica."""
        message = f"cannot deploy {self._version}: internal error; see the log of management"
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

    async def advance(self, deployment: DeploymentRecord) -> None:
        """Complete or fail the rollout if it is due; this may change records.

        Raises:
            SkysailError: the records cannot be changed now.
        """
        if self._verdict is not None:
            await self.fail(deployment, *self._verdict)
        elif self._is_ready(deployment):
            is_open = not deployment.is_rolled_out or _puts_into_service(deployment)
            done = await self._complete(deployment) if is_open else deployment
            if done is not None:
                self._publish_done(done)

    def _is_ready(self, deployment: DeploymentRecord) -> bool:
        # A version scaled to 0 has all desired replicas, but cannot be promoted.
        fewest = 1 if _puts_into_service(deployment) else 0
        return self._num_ready() >= max(fewest, deployment.num_replicas)

    def _reread(self, seen: DeploymentRecord) -> DeploymentRecord | None:
        """Return the current deployment, or None if it is gone or was replaced."""
        fresh = self._records.deployments.get(str(self._version))
        if fresh is None or template_of(fresh) != template_of(seen):
            self.reset()
            return None
        return fresh

    async def _complete(self, seen: DeploymentRecord) -> DeploymentRecord | None:
        async with self._records.lock:
            fresh = self._reread(seen)
            # A replica may have failed during the wait for the lock.
            if fresh is None or not self._is_ready(fresh):
                return None
            await self._commit_completion(fresh)
        # Frontends apply the routes before the caller gets the event, because it may query one at
        # once.
        await self._publish_routing()
        if fresh.promote_when_ready:
            self._publish(DeployStep.PROMOTED, f"{self._version} is the current version")
        if fresh.application is not None:
            text = f"application {fresh.application.name!r} is routed to {self._version.model_name}"
            self._publish(DeployStep.ROUTED, text)
        return fresh

    async def _commit_completion(self, deployment: DeploymentRecord) -> None:
        changes: list[PendingChange] = [self._completion_change(deployment)]
        if deployment.promote_when_ready:
            changes += promotion_changes(self._records, self._version)
        if application := deployment.application:
            changes.append(self._records.applications.put(application.name, application))
        await self._records.commit(changes)

    def _completion_change(self, deployment: DeploymentRecord) -> PendingChange:
        finished = deployment.model_copy(
            update={
                "is_rolled_out": True,
                "promote_when_ready": False,
                "removes_version_on_failure": False,
                "application": None,
            }
        )
        return self._records.deployments.put(str(self._version), finished)

    def _publish_done(self, deployment: DeploymentRecord) -> None:
        self.reset()
        self._events.publish(
            self._version,
            DeployEvent(
                DeployStep.DONE,
                f"{self._version} is deployed",
                num_ready=self._num_ready(),
                num_replicas=deployment.num_replicas,
            ),
        )

    async def fail(self, seen: DeploymentRecord, message: str, log_tail: str) -> bool:
        """Fail the rollout and publish it; return False if the version stays deployed.

        The records of the rollout are removed, unless the version already serves.

        Raises:
            SkysailError: the records cannot be changed now.
        """
        async with self._records.lock:
            fresh = self._reread(seen)
            if fresh is None:
                return True
            if fresh.is_rolled_out and not self._is_repeated:
                self.reset()
                return False
            use = reason_to_keep(self._records, self._version)
            stays = fresh.is_rolled_out or bool(use)
            changes = [self._completion_change(fresh)] if stays else self._rollback_changes(fresh)
            await self._records.commit(changes, why=message)
        self.reset()
        if use and not fresh.is_rolled_out:
            message = f"{message}; {self._version} stays deployed because {use}"
        log.warning("rollout failed", extra={"version": self._version, "reason": message})
        self._publish(DeployStep.FAILED, message, log_tail)
        return not stays

    def _rollback_changes(self, deployment: DeploymentRecord) -> list[PendingChange]:
        name = str(self._version)
        changes: list[PendingChange] = [self._records.deployments.delete(name)]
        version = self._records.versions.get(name)
        # A version that was current stays available for a rollback.
        is_new = deployment.removes_version_on_failure and version and not version.was_current
        return changes + (removal_changes(self._records, self._version) if is_new else [])

    def _publish(self, step: DeployStep, message: str, log_tail: str = "") -> None:
        self._events.publish(self._version, DeployEvent(step, message, log_tail=log_tail))


def _puts_into_service(deployment: DeploymentRecord) -> bool:
    """Return whether the end of the rollout directs queries to the version."""
    return deployment.promote_when_ready or deployment.application is not None


def failure_text(container: Container, memory_mib: int) -> str:
    """Return how a replica failed, with its memory limit if that may be the cause."""
    text = f"{container.replica_id} failed: {container.reason}"
    # A limit that is too low has many symptoms: no thread starts, a library aborts, or the process
    # hangs. Only an exception of Python excludes it.
    is_known = container.is_permanent and "MemoryError" not in container.log_tail
    # A container without an endpoint never ran, for example because no node had room.
    if not memory_mib or is_known or not container.endpoint:
        return text
    return f"{text}; its memory limit is {memory_mib} MiB, which may be too low"
