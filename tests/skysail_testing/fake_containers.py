"""A container manager without containers; tests set the fate of each."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from skysail_common.errors import ReplicaNotFound, Unavailable, Unsupported
from skysail_common.identifiers import ModelVersion
from skysail_common.replica_description import ReplicaDescription
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
from skysail_management.containers.change_feed import ChangeFeed


class FakeContainerManager(ContainerManager):
    """A container manager in memory; containers are ready at once by default."""

    name = "fake"

    def __init__(self) -> None:
        self.live: dict[str, Container] = {}
        self.started: list[ReplicaSpec] = []
        self.stopped: list[str] = []
        self.prepared: list[VersionSpec] = []
        self.verified: list[bool] = []
        """The argument `verifies` of each preparation."""
        self.swept: list[list[VersionSpec]] = []
        self.is_open = False
        self.becomes_ready = True
        """Whether a started container is ready at once."""
        self.fails_with: list[dict[str, object]] = []
        """Failures of the next containers, which fail before `start` returns."""
        self.start_errors: list[Exception] = []
        self.prepare_errors: list[Exception] = []
        self.stop_errors: list[Exception] = []
        self.list_errors: list[Exception] = []
        self.log_errors: list[Exception] = []
        self.sweep_errors: list[Exception] = []
        self.kept_logs: set[str] = set()
        self.hangs_preparing: set[str] = set()
        """Versions whose preparation never ends."""
        self.num_preparing = 0
        self.drain_gate: asyncio.Event | None = None
        """Gate that stopping containers wait for."""
        self.max_gpus = 8
        self.start_limit = 1000
        self.hangs_starting: set[str] = set()
        """Versions whose start never returns."""
        self.start_takes_s = 0.0
        self.changes = ChangeFeed()
        self.descriptions: dict[str, ReplicaDescription] = {}
        """What replicas tell about their models, by replica id; nothing by default."""
        self.describe_errors: list[Exception] = []
        self.num_descriptions = 0

    def max_concurrent_starts(self) -> int:
        return self.start_limit

    def check_resources(self, resources: Resources) -> None:
        if resources.gpus > self.max_gpus:
            raise Unsupported("no GPUs here")

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def prepare(
        self, version: VersionSpec, progress: Progress, *, verifies: bool = False
    ) -> None:
        self.num_preparing += 1
        try:
            progress("collecting packages")
            await asyncio.sleep(0)
            if str(version.model_version) in self.hangs_preparing:
                await asyncio.Event().wait()
            if self.prepare_errors:
                raise self.prepare_errors.pop(0)
            self.prepared.append(version)
            self.verified.append(verifies)
        finally:
            self.num_preparing -= 1

    async def start(self, spec: ReplicaSpec) -> Container:
        holders = [box for box in self.live.values() if box.replica_id == spec.replica_id]
        assert not any(box.state.is_live for box in holders), f"{spec.replica_id} is live"
        if self.start_errors:
            raise self.start_errors.pop(0)
        if str(spec.version.model_version) in self.hangs_starting:
            await asyncio.Event().wait()
        if self.start_takes_s:
            await asyncio.sleep(self.start_takes_s)
        self.started.append(spec)
        container_id = f"c{len(self.started)}"
        container = Container(
            container_id, spec.replica_id, ReplicaState.STARTING, f"unix:/{container_id}.sock"
        )
        self.live[container_id] = container
        if self.fails_with:
            self.fail(container_id, **self.fails_with.pop(0))
            # The watcher gets the failure before the caller of `start` gets its result.
            await asyncio.sleep(0.001)
        elif self.becomes_ready:
            self.set_state(container_id, ReplicaState.READY)
        return container

    async def describe(
        self, endpoint: str, version: ModelVersion, artifact_sha256: str
    ) -> ReplicaDescription:
        """Answer as the replica at an endpoint."""
        self.num_descriptions += 1
        if self.describe_errors:
            raise self.describe_errors.pop(0)
        found = [box.replica_id for box in self.live.values() if box.endpoint == endpoint]
        if not found:
            raise Unavailable(f"nothing listens at {endpoint}")
        assert found[0].model_version == version
        return self.descriptions.get(str(found[0]), ReplicaDescription())

    async def stop(self, container_id: str, drain_timeout_s: float) -> None:
        if self.stop_errors:
            raise self.stop_errors.pop(0)
        if container_id not in self.live:
            return
        self.stopped.append(container_id)
        self.set_state(container_id, ReplicaState.DRAINING)
        await asyncio.sleep(0)
        if self.drain_gate is not None:
            await self.drain_gate.wait()
        self._end(container_id, ReplicaState.STOPPED)

    async def list(self) -> Sequence[Container]:
        if self.list_errors:
            raise self.list_errors.pop(0)
        return list(self.live.values())

    def watch(self) -> AsyncIterator[Container]:
        return self.changes.watch()

    async def logs(self, container_id: str, tail_lines: int, follow: bool) -> AsyncIterator[str]:
        if self.log_errors:
            raise self.log_errors.pop(0)
        if container_id not in self.live and container_id not in self.kept_logs:
            raise ReplicaNotFound(f"no log of container {container_id!r} exists")
        for number in range(tail_lines):
            yield f"line {number} of {container_id}"

    async def sweep(self, needed: Needed) -> None:
        if self.sweep_errors:
            raise self.sweep_errors.pop(0)
        self.swept.append(list(needed()))

    def ids(self, *states: ReplicaState) -> Sequence[str]:
        """Return the live containers, in these states if any are given."""
        return [name for name, box in self.live.items() if not states or box.state in states]

    def set_state(self, container_id: str, state: ReplicaState) -> None:
        self.live[container_id] = replace(self.live[container_id], state=state)
        self.changes.publish(self.live[container_id])

    def fail(self, container_id: str, reason: str = "killed", **values: object) -> None:
        """End a container as failed."""
        self._end(container_id, ReplicaState.FAILED, reason=reason, **values)

    def lose(self, container_id: str) -> None:
        """Forget a container without an event."""
        del self.live[container_id]

    def _end(self, container_id: str, state: ReplicaState, **values: object) -> None:
        ended = replace(self.live.pop(container_id), state=state, **values)  # type: ignore[arg-type]
        self.changes.publish(ended)
