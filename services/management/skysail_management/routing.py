"""Publishes routes to frontends, and tracks which ones they applied."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container
from skysail_management.records import ApplicationRecord, DeploymentRecord, Records, VersionRecord

log = logging.getLogger(__name__)

APPLY_TIMEOUT_S = 2.0
"""Longest wait for a frontend to apply a snapshot."""


@dataclass(frozen=True)
class VersionRouting:
    """A deployed version as frontends see it."""

    record: VersionRecord
    deployment: DeploymentRecord
    is_current: bool
    replicas: tuple[tuple[str, str], ...]
    """Container id and endpoint of each replica that takes batches."""


@dataclass(frozen=True)
class RoutingState:
    """The state that frontends need, at one instant."""

    applications: tuple[ApplicationRecord, ...]
    versions: tuple[VersionRouting, ...]


@dataclass
class Watcher:
    """A frontend that watches the routes."""

    frontend_id: str
    grpc_endpoint: str
    http_endpoint: str
    applied_sequence: int = 0
    transport: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    failure: BaseException | None = None
    """The error that ended its reports."""

    def follow(self, reports: "asyncio.Task[None]") -> None:
        """End the stream to a frontend if the task that reads its reports fails."""
        reports.add_done_callback(self._note_end)

    def _note_end(self, reports: "asyncio.Task[None]") -> None:
        if not reports.cancelled() and (error := reports.exception()) is not None:
            self.failure = error
            self.changed.set()


class Routing:
    """Numbers the routing states and sends the newest to every watcher."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._state = RoutingState((), ())
        self._sequence = 0
        self._watchers: dict[int, Watcher] = {}
        self._waits: list[tuple[int, asyncio.Future[None]]] = []
        self._is_stopped = False

    @property
    def frontends(self) -> list[Watcher]:
        """Every watching frontend, by id."""
        return sorted(self._watchers.values(), key=lambda watcher: watcher.frontend_id)

    def publish(self, containers: Sequence[Container]) -> "asyncio.Future[None]":
        """Send the present state to every watcher, if it differs from the last.

        Returns:
            A future that is done when every watcher applied it, or after 2 seconds.
        """
        state = self._build(containers)
        if state != self._state or self._sequence == 0:
            self._state = state
            self._sequence += 1
            for watcher in self._watchers.values():
                watcher.changed.set()
        loop = asyncio.get_running_loop()
        wait: asyncio.Future[None] = loop.create_future()
        self._waits.append((self._sequence, wait))
        timer = loop.call_later(APPLY_TIMEOUT_S, self._give_up, wait)
        wait.add_done_callback(lambda _: timer.cancel())
        self._settle()
        return wait

    def _settle(self) -> None:
        applied = min(
            (watcher.applied_sequence for watcher in self._watchers.values()),
            default=self._sequence,
        )
        for sequence, wait in self._waits:
            if sequence <= applied and not wait.done():
                wait.set_result(None)
        self._waits = [(sequence, wait) for sequence, wait in self._waits if not wait.done()]

    def _give_up(self, wait: "asyncio.Future[None]") -> None:
        if not wait.done():
            log.warning("routes not applied in time", extra={"sequence": self._sequence})
            wait.set_result(None)
            self._settle()

    def _build(self, containers: Sequence[Container]) -> RoutingState:
        ready: dict[str, list[Container]] = {}
        for container in containers:
            if container.state is ReplicaState.READY:
                ready.setdefault(str(container.replica_id.model_version), []).append(container)
        versions = []
        for deployment in self._records.deployments.all():
            name = str(deployment.model_version)
            record = self._records.versions.get(name)
            if record is None or not record.to_signature().is_known:
                continue
            model = self._records.models.get(record.model)
            is_current = model is not None and model.current_version == record.version
            replicas = tuple(
                sorted(
                    (each.container_id, each.endpoint)
                    for each in ready.get(name, ())
                    if not each.is_outdated(record.artifact_sha256)
                )
            )
            versions.append(VersionRouting(record, deployment, is_current, replicas))
        return RoutingState(tuple(self._records.applications.all()), tuple(versions))

    @contextmanager
    def attach(self, watcher: Watcher) -> Iterator[None]:
        """Count a frontend among the watchers inside the `with` block."""
        key = id(watcher)
        self._watchers[key] = watcher
        watcher.changed.set()
        try:
            yield
        finally:
            del self._watchers[key]
            self._settle()

    async def snapshots(self, watcher: Watcher) -> AsyncIterator[tuple[int, RoutingState]]:
        """Yield the newest state with its number at once and after each change.

        Raises:
            Exception: the error that ended the reports of the frontend. The frontend then
                reconnects. Without its reports, it would acknowledge nothing, and its loads would
                be lost.
        """
        while True:
            await watcher.changed.wait()
            if watcher.failure is not None:
                raise watcher.failure
            if self._is_stopped:
                return
            watcher.changed.clear()
            yield self._sequence, self._state

    def stop(self) -> None:
        """End the streams to watchers, because a server that stops waits for them."""
        self._is_stopped = True
        for watcher in self._watchers.values():
            watcher.changed.set()

    def acknowledge(self, watcher: Watcher, sequence: int) -> None:
        """Record that a frontend applied this state."""
        watcher.applied_sequence = max(watcher.applied_sequence, sequence)
        self._settle()
