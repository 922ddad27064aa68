"""Operations on deployments: the desired state of a version, and the events on the way to it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skysail_common.errors import FailedPrecondition, InvalidInput, ReplicaNotFound
from skysail_common.identifiers import ModelVersion, check_name
from skysail_common.serving_options import ServingOptions
from skysail_management.catalog.applications import with_application
from skysail_management.catalog.deployment_specs import (
    MAX_REPLICAS,
    DeploymentSpec,
    first_deployment,
    merge_serving,
    update_deployment,
)
from skysail_management.catalog.rules import start_hint
from skysail_management.catalog.versions import resolve_version_name
from skysail_management.containers.base import Container, ContainerManager
from skysail_management.events import DeployEvent, DeployEvents, DeployStep, Subscription
from skysail_management.operations.models import Models
from skysail_management.reconciler.autoscaling import Bounds
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.records import (
    AutoscalingRecord,
    DeploymentRecord,
    PendingChange,
    Records,
)

_SLACK_S = 30.0


@dataclass(frozen=True)
class DeploymentDefaults:
    """Defaults of the server for values that a caller does not give."""

    max_batch_size: int
    start_timeout_s: float
    prepare_timeout_s: float
    warm_up: bool = True


class Deployments:
    """Deploys, scales and undeploys versions; reads the logs of their replicas."""

    def __init__(
        self,
        records: Records,
        models: Models,
        reconciler: Reconciler,
        manager: ContainerManager,
        events: DeployEvents,
        defaults: DeploymentDefaults,
    ) -> None:
        self._records = records
        self._models = models
        self._reconciler = reconciler
        self._manager = manager
        self._events = events
        self._defaults = defaults

    async def deploy(
        self, version: ModelVersion, spec: DeploymentSpec
    ) -> AsyncIterator[DeployEvent]:
        """Deploy a version and yield the events, until it is done or failed.

        The request is recorded before the first event, so that neither a disconnected caller nor a
        dead management stops it. A repeated request changes nothing.

        Args:
            version: The version to deploy. With an empty version, the server uses the version with
                that artifact, or the next number; without an artifact, the current version.
            spec: The requested deployment.

        Raises:
            InvalidInput: a name is invalid, or a number is out of range.
            Unsupported: the container manager cannot provide the resources.
            FailedPrecondition: it is deployed with other resources or another environment.
            InputTypeMismatch: an application with a route to the model has another input type.
            AlreadyExists: the application of the request exists with other values.
            SkysailError: as for `Models.registration`.
        """
        with self._models.pin_artifact(spec.artifact_sha256):
            spec.check()
            async with self._records.lock:
                version = self._resolve_version(version, spec)
                deployment, notices = await self._record(version, spec)
        # No event can occur between the commit and the subscription, so that earlier events belong
        # to an earlier request.
        with self._events.subscribe(version) as subscription:
            is_wanted = deployment.num_replicas > 0
            if deployment.is_rolled_out and is_wanted and self._reconciler.num_ready(version) == 0:
                self._reconciler.repeat_rollout(version)
            self._reconciler.wake(version)
            first = DeployEvent(
                DeployStep.REGISTERED,
                f"{version} is registered",
                num_replicas=deployment.num_replicas,
                version=version.version,
            )
            yield first
            for notice in notices:
                yield replace(first, step=DeployStep.NOTICE, message=notice)
            async for event in self._follow(version, subscription, deployment):
                yield event

    def _resolve_version(self, version: ModelVersion, spec: DeploymentSpec) -> ModelVersion:
        model, name = version
        if name:
            return version
        if spec.artifact_sha256:
            check_name("model", model)
            return ModelVersion(
                model, resolve_version_name(self._records, model, spec.artifact_sha256)
            )
        return self._models.version(model, "").model_version

    async def _record(
        self, version: ModelVersion, spec: DeploymentSpec
    ) -> tuple[DeploymentRecord, list[str]]:
        is_new_version = self._records.versions.get(str(version)) is None
        record, changes = self._models.registration(version, spec.artifact_sha256, spec.labels)
        existing = self._records.deployments.get(str(version))
        model = self._records.models.get(version.model_name)
        is_current = model is not None and model.current_version == version.version
        notices: list[str] = []
        if existing is None:
            default = DeploymentRecord(
                model=version.model_name,
                version=version.version,
                num_replicas=1,
                serving=ServingOptions(self._defaults.max_batch_size),
                start_timeout_s=self._defaults.start_timeout_s,
                warm_up=self._defaults.warm_up,
            )
            deployment = first_deployment(record, spec, default, is_new_version=is_new_version)
            # The last deployment may have run on another container manager.
            self._manager.check_resources(deployment.resources)
        else:
            deployment, notices = update_deployment(existing, spec, is_current=is_current)
        if spec.application is not None:
            deployment = with_application(self._records, record, deployment, spec.application)
        if spec.promote is None and spec.artifact_sha256 and record.was_current and not is_current:
            notices.append(
                f"{version} was current before and is not promoted again automatically; "
                f"'skysail promote {version}' or promote=True does that"
            )
        if deployment != existing:
            changes.append(self._records.deployments.put(str(version), deployment))
        await self._records.commit(changes)
        return deployment, notices

    async def _follow(
        self, version: ModelVersion, subscription: Subscription, deployment: DeploymentRecord
    ) -> AsyncIterator[DeployEvent]:
        # The rollout has its own time limits; this one covers an unreachable store or engine.
        limit_s = self._defaults.prepare_timeout_s + 3 * deployment.start_timeout_s + _SLACK_S
        loop = asyncio.get_running_loop()
        end, most_ready = loop.time() + limit_s, 0
        while True:
            try:
                event = await asyncio.wait_for(subscription.next(), end - loop.time())
            except asyncio.TimeoutError:
                yield DeployEvent(
                    DeployStep.FAILED,
                    f"{version} is not ready after {limit_s:g} s; see its status",
                    version=version.version,
                )
                return
            yield event
            if event.step.is_last:
                return
            if event.num_ready > most_ready:
                # Replicas that start one after the other may need longer in total.
                most_ready, end = event.num_ready, loop.time() + limit_s

    async def undeploy(self, model: str, version: str, force: bool) -> str:
        """Stop the replicas of a version, which stays registered, and return its name.

        Raises:
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
            ModelInUse: it is the current version, or an application is routed to it, and `force` is
                False.
        """
        async with self._records.lock:
            record = self._models.version(model, version)
            name = str(record.model_version)
            deployment = self._records.deployments.get(name)
            if deployment is None:
                raise FailedPrecondition(f"model {name!r} is not deployed")
            # The next start without an artifact reuses the deployment.
            kept = record.model_copy(update={"last_deployment": deployment})
            changes = [
                self._records.deployments.delete(name),
                self._records.versions.put(name, kept),
            ]
            await self._records.commit(changes, is_forced=force)
        self._publish_end(record.model_version, f"{name} was undeployed during the deployment")
        self._reconciler.wake(record.model_version)
        return record.version

    def _publish_end(self, version: ModelVersion, message: str) -> None:
        self._events.publish(version, DeployEvent(DeployStep.FAILED, message))

    def _get_deployment(self, model: str, version: str) -> DeploymentRecord:
        record = self._models.version(model, version)
        deployment = self._records.deployments.get(str(record.model_version))
        if deployment is None:
            raise FailedPrecondition(
                f"model {str(record.model_version)!r} is not deployed; "
                f"{start_hint(record.model_version)}"
            )
        return deployment

    async def _change(self, deployment: DeploymentRecord, **update: object) -> DeploymentRecord:
        changed = deployment.model_copy(update=update)
        changes: list[PendingChange] = []
        if changed != deployment:
            name = str(deployment.model_version)
            changes.append(self._records.deployments.put(name, changed))
        await self._records.commit(changes)
        return changed

    async def scale(self, model: str, version: str, num_replicas: int) -> str:
        """Set the number of replicas of a deployed version and return its name.

        The call ends autoscaling of the version.

        Raises:
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed, or would be scaled to 0 before it was ready.
            InvalidInput: num_replicas exceeds the limit.
        """
        async with self._records.lock:
            deployment = self._get_deployment(model, version)
            found = deployment.model_version
            if num_replicas > MAX_REPLICAS:
                raise InvalidInput(f"num_replicas must be at most {MAX_REPLICAS}")
            if num_replicas == 0 and not deployment.is_rolled_out:
                raise FailedPrecondition(
                    f"cannot scale model {str(found)!r} to 0 during its rollout; undeploy it instead"
                )
            is_open = deployment.promote_when_ready or deployment.application is not None
            is_cancelled = num_replicas == 0 and is_open
            await self._change(
                deployment,
                num_replicas=num_replicas,
                autoscaling=None,
                promote_when_ready=deployment.promote_when_ready and not is_cancelled,
                application=None if is_cancelled else deployment.application,
            )
        if is_cancelled:
            self._publish_end(
                found, f"{found} was scaled to 0 during the deployment and is not promoted"
            )
        self._reconciler.wake(found)
        return found.version

    async def set_autoscaling(
        self, model: str, version: str, bounds: AutoscalingRecord | None
    ) -> DeploymentRecord:
        """Autoscale a deployed version, and return the deployment.

        Args:
            model: Name of the model.
            version: Version; the current one if empty.
            bounds: Bounds that apply at once; None ends autoscaling with the present number.

        Raises:
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
            InvalidInput: the bounds are out of range.
        """
        if bounds and not 1 <= bounds.min_replicas <= bounds.max_replicas <= MAX_REPLICAS:
            raise InvalidInput(
                "min_replicas must be at least 1, and max_replicas from there to "
                f"{MAX_REPLICAS}; got {bounds.min_replicas} and {bounds.max_replicas}"
            )
        async with self._records.lock:
            deployment = self._get_deployment(model, version)
            num_replicas = deployment.num_replicas
            if bounds is not None:
                limits = Bounds(bounds.min_replicas, bounds.max_replicas)
                num_replicas = limits.clamp(num_replicas)
            changed = await self._change(deployment, num_replicas=num_replicas, autoscaling=bounds)
        self._reconciler.wake(changed.model_version)
        return changed

    async def tune(self, model: str, version: str, changes: Mapping[str, Any]) -> DeploymentRecord:
        """Change the serving options of a deployed version, and return the deployment.

        Args:
            model: Name of the model.
            version: Version; the current one if empty.
            changes: Fields of `ServingOptions` to change.

        Raises:
            InvalidInput: an option is not possible; the message names it.
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
        """
        async with self._records.lock:
            deployment = self._get_deployment(model, version)
            changed = await self._change(
                deployment, serving=merge_serving(deployment.serving, changes)
            )
        # The call returns when every frontend applied the options.
        await self._reconciler.publish_routing()
        return changed

    def replicas(self, model: str, version: str, index: int | None) -> Sequence[Container]:
        """Return the containers of a version that have a log, live or failed.

        Raises:
            ModelNotFound: the version is not registered.
            ReplicaNotFound: the version has no such replica.
        """
        record = self._models.version(model, version)
        loop = self._reconciler.version_loop(record.model_version)
        found = [*loop.replicas.containers, *loop.replicas.failed.values()] if loop else []
        chosen = [each for each in found if index in (None, each.replica_id.index)]
        if not chosen:
            which = "replica" if index is None else f"replica {index}"
            raise ReplicaNotFound(f"model {str(record.model_version)!r} has no {which}")
        return chosen

    async def logs(
        self, containers: Sequence[Container], tail_lines: int, follow: bool
    ) -> AsyncIterator[tuple[str, str]]:
        """Yield lines of the logs of containers, each with its replica id.

        The log of a failed container precedes the log of its successor.
        """
        for container in containers:
            for line in await self._predecessor_log(container, tail_lines):
                yield str(container.replica_id), line
        lines: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue(maxsize=1000)

        async def read(container: Container) -> None:
            try:
                async for line in self._manager.logs(container.container_id, tail_lines, follow):
                    await lines.put((str(container.replica_id), line))
            except Exception:
                await lines.put(None)
                raise
            # The end marker is outside of a `finally`, because a cancelled reader must not wait for
            # room.
            await lines.put(None)

        tasks = [asyncio.create_task(read(container)) for container in containers]
        try:
            pending = len(tasks)
            while pending:
                item = await lines.get()
                if item is None:
                    pending -= 1
                else:
                    yield item
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _predecessor_log(self, container: Container, tail_lines: int) -> Sequence[str]:
        loop = self._reconciler.version_loop(container.replica_id.model_version)
        predecessor = loop.replicas.last_failed(container.replica_id.index) if loop else None
        if predecessor is None or predecessor.container_id in ("", container.container_id):
            return ()
        lines = self._manager.logs(predecessor.container_id, tail_lines, follow=False)
        try:
            return [line async for line in lines]
        except ReplicaNotFound:
            # A sweep removed the log.
            return ()
