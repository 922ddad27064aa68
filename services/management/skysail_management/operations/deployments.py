"""Deployments: what is wanted of a model version, and the story of getting there."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from skysail_common.errors import (
    FailedPrecondition,
    InvalidInput,
    ModelInUse,
    ReplicaNotFound,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.transports import VARIABLE
from skysail_common.serving_options import ServingOptions
from skysail_management.containers.base import Container, ContainerManager
from skysail_management.events import DeployEvent, DeployEvents, DeployStep, Subscription
from skysail_management.operations.models import Models
from skysail_management.reconciler.autoscaling import Bounds
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.reconciler.rollout import fixed_part
from skysail_management.records import AutoscalingRecord, DeploymentRecord, Records

MAX_REPLICAS = 1000
_MAX_CPUS = 1024
_SLACK_S = 30.0


@dataclass(frozen=True)
class DeploymentWish:
    """What a caller of `Deployments.deploy` asks for; None leaves it to the server."""

    artifact_sha256: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    num_replicas: int = 1
    num_threads: int = 0
    memory_mib: int = 0
    cpus: float = 0.0
    gpus: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    serving: ServingOptions | None = None
    start_timeout_s: float | None = None
    promote: bool = False


@dataclass(frozen=True)
class DeploymentDefaults:
    """What the server decides where a caller does not."""

    max_batch_size: int
    start_timeout_s: float
    prepare_timeout_s: float


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
        self, version: ModelVersion, wish: DeploymentWish
    ) -> AsyncIterator[DeployEvent]:
        """Deploy a version and yield what happens, until it is done or has failed.

        What is asked for is recorded before the first event: a caller that goes away, or a
        management that dies, does not stop it.

        Raises:
            InvalidInput: a name or number out of range.
            Unsupported: the container manager cannot give a replica such resources.
            FailedPrecondition: it is deployed with other resources or environment.
            SkysailError: as `Models.registration`.
        """
        with self._events.subscribe(version) as subscription:
            with self._models.taking_artifact(wish.artifact_sha256):
                async with self._records.lock:
                    deployment = await self._record(version, wish)
            # What happened until now concerns an earlier wish.
            subscription.clear()
            if deployment.is_rolled_out and self._reconciler.num_ready(version) == 0:
                self._reconciler.repeat_rollout(version)
            self._reconciler.changed(version)
            yield DeployEvent(
                DeployStep.REGISTERED,
                f"{version} is registered",
                num_replicas=deployment.num_replicas,
            )
            async for event in self._follow(version, subscription, deployment):
                yield event

    async def _record(self, version: ModelVersion, wish: DeploymentWish) -> DeploymentRecord:
        _, changes = self._models.registration(version, wish.artifact_sha256, wish.labels)
        deployment = self._desired(version, wish, is_new_version=bool(changes))
        changes.append(self._records.deployments.put(str(version), deployment))
        await self._records.commit(changes)
        return deployment

    def _desired(
        self, version: ModelVersion, wish: DeploymentWish, is_new_version: bool
    ) -> DeploymentRecord:
        if not 1 <= wish.num_replicas <= MAX_REPLICAS:
            raise InvalidInput(f"num_replicas must be from 1 to {MAX_REPLICAS} to deploy")
        # A number that is none is in no range either.
        if not (0 <= wish.cpus <= _MAX_CPUS and 0 <= wish.gpus <= _MAX_CPUS):
            raise InvalidInput(f"cpus and gpus of a replica must be from 0 to {_MAX_CPUS}")
        self._manager.check_resources(wish.cpus, wish.gpus)
        for name, value in wish.environment.items():
            is_possible = name and "=" not in name and "\0" not in name + value
            # What carries its queries is a replica's own business; all else of ours is not.
            if not is_possible or (name.startswith("SKYSAIL_") and name != VARIABLE):
                raise InvalidInput(f"{name!r} cannot be an environment variable of a replica")
        deployment = DeploymentRecord(
            model=version.model_name,
            version=version.version,
            num_replicas=wish.num_replicas,
            num_threads=wish.num_threads,
            memory_mib=wish.memory_mib,
            cpus=wish.cpus,
            gpus=wish.gpus,
            environment=dict(wish.environment),
            serving=wish.serving or ServingOptions(self._defaults.max_batch_size),
            start_timeout_s=wish.start_timeout_s or self._defaults.start_timeout_s,
            promote_when_ready=wish.promote,
            removes_version_on_failure=is_new_version,
        )
        existing = self._records.deployments.get(str(version))
        if existing is None:
            return deployment
        if fixed_part(existing) != fixed_part(deployment):
            raise FailedPrecondition(
                f"model {str(version)!r} is deployed with other resources or environment; "
                "undeploy it first"
            )
        if existing.autoscaling is not None:
            # Whoever deploys it again does not know its load.
            deployment = deployment.model_copy(
                update={
                    "num_replicas": existing.num_replicas,
                    "autoscaling": existing.autoscaling,
                }
            )
        return deployment.model_copy(
            update={
                "is_rolled_out": existing.is_rolled_out,
                "serving": wish.serving or existing.serving,
                "removes_version_on_failure": existing.removes_version_on_failure,
            }
        )

    async def _follow(
        self, version: ModelVersion, subscription: Subscription, deployment: DeploymentRecord
    ) -> AsyncIterator[DeployEvent]:
        # The roll-out has bounds of its own; this one is for a store or engine that is away.
        limit_s = self._defaults.prepare_timeout_s + 3 * deployment.start_timeout_s + _SLACK_S
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while True:
            try:
                event = await asyncio.wait_for(subscription.next(), end - loop.time())
            except asyncio.TimeoutError:
                yield DeployEvent(
                    DeployStep.FAILED, f"{version} is not ready after {limit_s:g} s; see its status"
                )
                return
            yield event
            if event.step.is_last:
                return

    async def undeploy(self, model: str, version: str, force: bool) -> str:
        """Stop the replicas of a version, which stays registered, and return its name.

        Raises:
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
            ModelInUse: an application is routed to it, and `force` is False.
        """
        async with self._records.lock:
            record = self._models.version(model, version)
            name = self._deployed(record.model_version)
            if not force:
                self._check_unrouted(record.model_version)
            await self._records.commit([self._records.deployments.delete(name)])
        self._events.publish(
            record.model_version, DeployEvent(DeployStep.FAILED, f"{name} was undeployed meanwhile")
        )
        self._reconciler.changed(record.model_version)
        return record.version

    def _check_unrouted(self, version: ModelVersion) -> None:
        model = self._records.models.get(version.model_name)
        is_current = model is not None and model.current_version == version.version
        for application in self._records.applications.all():
            for route in application.routes:
                is_hit = is_current if not route.version else route.version == version.version
                if route.model == version.model_name and is_hit:
                    raise ModelInUse(
                        f"application {application.name!r} is routed to model {str(version)!r}; "
                        "promote another version, unlink the application, or use force"
                    )

    def _deployed(self, version: ModelVersion) -> str:
        if self._records.deployments.get(str(version)) is None:
            raise FailedPrecondition(f"model {str(version)!r} is not deployed")
        return str(version)

    async def scale(self, model: str, version: str, num_replicas: int) -> str:
        """Set the number of replicas of a deployed version and return its name.

        It follows its load no more.

        Raises:
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed, or is to be scaled to 0 before it was ready.
            InvalidInput: more replicas than are allowed.
        """
        async with self._records.lock:
            record = self._models.version(model, version)
            name = self._deployed(record.model_version)
            if num_replicas > MAX_REPLICAS:
                raise InvalidInput(f"num_replicas must be at most {MAX_REPLICAS}")
            deployment = self._records.deployments.get(name)
            assert deployment is not None
            if num_replicas == 0 and not deployment.is_rolled_out:
                raise FailedPrecondition(
                    f"model {name!r} is still being rolled out; undeploy it instead"
                )
            changed = deployment.model_copy(
                update={"num_replicas": num_replicas, "autoscaling": None}
            )
            await self._records.commit([self._records.deployments.put(name, changed)])
        self._reconciler.changed(record.model_version)
        return record.version

    async def set_autoscaling(
        self, model: str, version: str, bounds: AutoscalingRecord | None
    ) -> DeploymentRecord:
        """Have the number of replicas follow the load and return what is wanted now.

        Args:
            model: Name of the model.
            version: Version; the current one where empty.
            bounds: Hold at once; None to keep the present number from now on.

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
            record = self._models.version(model, version)
            name = self._deployed(record.model_version)
            deployment = self._records.deployments.get(name)
            assert deployment is not None
            num_replicas = deployment.num_replicas
            if bounds is not None:
                limits = Bounds(bounds.min_replicas, bounds.max_replicas)
                num_replicas = limits.clamped(num_replicas)
            changed = deployment.model_copy(
                update={"num_replicas": num_replicas, "autoscaling": bounds}
            )
            await self._records.commit([self._records.deployments.put(name, changed)])
        self._reconciler.changed(record.model_version)
        return changed

    async def set_serving_options(
        self, model: str, version: str, serving: ServingOptions
    ) -> DeploymentRecord:
        """Set how frontends serve a deployed version and return what is wanted of it now.

        Raises:
            ModelNotFound: it is not registered.
            FailedPrecondition: it is not deployed.
        """
        async with self._records.lock:
            record = self._models.version(model, version)
            name = self._deployed(record.model_version)
            deployment = self._records.deployments.get(name)
            assert deployment is not None
            changed = deployment.model_copy(update={"serving": serving})
            await self._records.commit([self._records.deployments.put(name, changed)])
        # Returns once every frontend decides by it.
        await self._reconciler.routing_changed()
        return changed

    def replicas(self, model: str, version: str, index: int | None) -> Sequence[Container]:
        """Return the containers of a version, live or failed, that have a log.

        Raises:
            ModelNotFound: the version is not registered.
            ReplicaNotFound: it has no such replica.
        """
        record = self._models.version(model, version)
        loop = self._reconciler.version_loop(record.model_version)
        found = [*loop.containers, *loop.failed.values()] if loop else []
        chosen = [box for box in found if index in (None, box.replica_id.index)]
        if not chosen:
            which = "replica" if index is None else f"replica {index}"
            raise ReplicaNotFound(f"model {str(record.model_version)!r} has no {which}")
        return chosen

    async def logs(
        self, containers: Sequence[Container], tail_lines: int, follow: bool
    ) -> AsyncIterator[tuple[str, str]]:
        """Yield lines of the logs of containers, each with the id of its replica.

        The log of a container that failed comes before that of its successor.
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
            # Not in a `finally`: a reader that is cancelled must not wait for room.
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
        predecessor = loop.last_failed(container.replica_id.index) if loop else None
        if predecessor is None or predecessor.container_id in ("", container.container_id):
            return ()
        log_of_it = self._manager.logs(predecessor.container_id, tail_lines, follow=False)
        try:
            return [line async for line in log_of_it]
        except ReplicaNotFound:
            # A sweep has removed it.
            return ()
