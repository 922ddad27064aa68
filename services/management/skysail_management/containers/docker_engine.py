"""The container manager `docker`: a replica is a container of a Docker engine.

Its artifact is in its image, so that it need reach nothing: it has no network, and listens on a unix
socket in a directory of this machine that it is given. With the setting docker-network it listens on
that network instead.

    <sockets>/<suffix>/s                 the socket; see skysail_common.paths
    <data-dir>/containers/<container>    exists while the replica is ready
"""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from skysail_common.back_off import BackOff
from skysail_common.clock import MONOTONIC
from skysail_common.errors import ContainerManagerUnavailable, ReplicaNotFound, SkysailError
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.lifecycle import BackgroundTasks
from skysail_common.paths import remove_socket_directory, socket_directory
from skysail_common.states import ExitCode, ReplicaState
from skysail_management.containers import docker_options
from skysail_management.containers.base import (
    Container,
    ContainerManager,
    Progress,
    ReplicaSpec,
    VersionSpec,
)
from skysail_management.containers.changes import ContainerChanges
from skysail_management.containers.docker_client import (
    DockerEngine,
    EngineRefused,
    NotOnEngine,
    lines_of,
)
from skysail_management.containers.docker_images import VersionImages
from skysail_management.containers.readiness import watch_readiness
from skysail_management.containers.replicas import (
    LABELS,
    exit_reason,
    log_end,
    replica_labels,
    replica_name,
)
from skysail_management.settings import ManagementSettings

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")
_STARTED_AT = "started-at"
_LOG_TAIL_LINES = 100
_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0
_KILL_TIMEOUT_S = 60.0
_SIGNALLED = 128
"""An exit status above it is that of a process that a signal has ended."""


@dataclass
class _Replica:
    container: Container
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    is_stopping: bool = False
    readiness: "asyncio.Task[None] | None" = None


class DockerEngineManager(ContainerManager):
    """Runs replicas as containers of a Docker engine."""

    name = "docker"

    def __init__(self, settings: ManagementSettings) -> None:
        """Marks what it makes with the cluster and the data directory of these settings."""
        self._settings = settings
        self._marks = {"cluster": settings.cluster, "data-dir": str(settings.data_dir.resolve())}
        self._engine = DockerEngine(settings.docker_host)
        self._images = VersionImages(self._marks, settings)
        self._ready = settings.data_dir / "containers"
        self._replicas: dict[str, _Replica] = {}
        self._changes = ContainerChanges()
        self._tasks = BackgroundTasks()

    async def open(self) -> None:
        """Take over the containers that an earlier management left running."""
        self._ready.mkdir(parents=True, exist_ok=True, mode=0o700)
        for found in await self._listed():
            if found["State"] == "running":
                replica = _Replica(self._container(found))
                self._follow(replica)
                log.info("took over a replica", extra={"replica": replica.container.replica_id})
        await self._images.open()
        if self._settings.docker_network:
            await self._make_network(self._settings.docker_network)
        self._tasks.start(self._watch_engine(), "events of the Docker engine")

    async def close(self) -> None:
        """Let go of all containers without stopping them.

        Where none lives, nothing remains on the engine but images, which the next one may need.
        """
        await self._tasks.stop()
        if not self._replicas:
            remove_socket_directory(self._settings.data_dir)
            with contextlib.suppress(ContainerManagerUnavailable):
                await self._remove_ended(set())
                await self._remove_network(self._settings.docker_network)
        await self._images.close()
        await self._engine.close()

    async def prepare(self, version: VersionSpec, progress: Progress) -> None:
        """Make sure that there is an image of the version."""
        await self._images.prepare(version, progress)

    async def start(self, spec: ReplicaSpec) -> Container:
        """Start a container and return it as STARTING."""
        image = self._images.image(spec.version)
        name = f"skysail-{replica_name(spec)}-{secrets.token_hex(4)}"
        labels = replica_labels(self._settings.cluster, spec)
        started_at = datetime.now(timezone.utc)
        marks = {**self._marks, **labels, _STARTED_AT: started_at.isoformat()}
        container = Container(
            name, spec.replica_id, ReplicaState.STARTING, started_at=started_at, labels=labels
        )
        # Known before it starts: it may end before this goes on.
        replica = self._replicas[name] = _Replica(container)
        is_started = False
        try:
            socket = self._socket(name)
            if not self._settings.docker_network:
                _make_socket_directory(socket.parent)
            config = docker_options.replica_config(
                spec, image, marks, str(socket.parent), self._settings
            )
            await self._engine.do(lambda client: client.create_container_from_config(config, name))
            await self._engine.do(lambda client: client.start(name))
            found = await self._engine.do(lambda client: client.inspect_container(name))
            replica.container = replace(container, endpoint=self._endpoint(name, found))
            is_started = True
        except OSError as error:
            raise SkysailError(f"its socket cannot be made: {error}") from error
        finally:
            if not is_started:
                self._replicas.pop(name, None)
                await self._remove(name)
        if name in self._replicas:
            self._follow(replica)
        return replica.container

    async def stop(self, container_id: str, drain_timeout_s: float) -> None:
        """Have a container finish what it has, and return when it is gone."""
        replica = self._replicas.get(container_id)
        if replica is None:
            return
        replica.is_stopping = True
        self._set(replica, ReplicaState.DRAINING)
        await self._signal(container_id, "SIGTERM")
        try:
            await asyncio.wait_for(replica.gone.wait(), drain_timeout_s)
        except asyncio.TimeoutError:
            log.warning("replica did not drain in time", extra={"container": container_id})
            await self._signal(container_id, "SIGKILL")
            try:
                await asyncio.wait_for(replica.gone.wait(), _KILL_TIMEOUT_S)
            except asyncio.TimeoutError:
                raise SkysailError(f"container {container_id} cannot be killed") from None

    async def list(self) -> Sequence[Container]:
        """Return every container that lives."""
        return [replica.container for replica in self._replicas.values()]

    def watch(self) -> AsyncIterator[Container]:
        """Yield each container whenever its state changes."""
        return self._changes.watch()

    async def logs(self, container_id: str, tail_lines: int, follow: bool) -> AsyncIterator[str]:
        """Yield the last lines of a log and, if `follow`, what is added."""
        if not await self._is_ours(container_id):
            raise ReplicaNotFound(f"there is no log of container {container_id!r}")
        async with self._engine.stream(
            lambda client: client.logs(container_id, stream=True, follow=follow, tail=tail_lines)
        ) as chunks:
            async for line in lines_of(chunks):
                yield line

    async def sweep(self, kept: Collection[VersionSpec]) -> None:
        """Remove containers that have ended, and unused images.

        The last failure of each replica of a kept version stays, so that its log can be read.
        """
        await self._remove_ended({spec.model_version for spec in kept})
        await self._images.sweep(kept)

    async def _remove_ended(self, kept: Collection[ModelVersion]) -> None:
        last: dict[ReplicaId, Container | None] = {}
        ended = [self._container(found) for found in await self._listed()]
        for container in sorted(ended, key=lambda each: str(each.started_at)):
            if container.container_id in self._replicas:
                continue
            former: Container | None = container
            if container.replica_id.model_version in kept:
                former = last.get(container.replica_id)
                last[container.replica_id] = container
            if former is not None:
                await self._remove(former.container_id)

    async def _watch_engine(self) -> None:
        """Take note of every container that ends, also while the engine was away."""
        wanted = {**self._filter(), "type": "container", "event": "die"}
        back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
        while True:
            try:
                async with self._engine.stream(
                    lambda client: client.events(filters=wanted, decode=True)
                ) as events:
                    # What ends from here on comes as an event.
                    await self._look_for_ended()
                    back_off.reset()
                    async for event in events:
                        await self._ended(event["Actor"]["Attributes"]["name"])
            except ContainerManagerUnavailable as error:
                log.warning("the Docker engine is away", extra={"error": error.message})
            except EngineRefused as error:
                log.error("the Docker engine gives no events", extra={"error": error.message})
            await asyncio.sleep(back_off.next_s())

    async def _look_for_ended(self) -> None:
        known = [name for name, each in self._replicas.items() if each.readiness is not None]
        running = {_name(found) for found in await self._listed() if found["State"] == "running"}
        for name in known:
            if name not in running:
                await self._ended(name)

    async def _ended(self, name: str) -> None:
        if name not in self._replicas:
            return
        state, log_tail = await self._last_words(name)
        replica = self._replicas.pop(name)
        if replica.readiness is not None:
            replica.readiness.cancel()
        self._clear(name)
        if replica.is_stopping:
            await self._remove(name)
            self._set(replica, ReplicaState.STOPPED)
        else:
            status = state.get("ExitCode", 0)
            replica.container = replace(
                replica.container, is_permanent=status == ExitCode.LOAD_FAILED, log_tail=log_tail
            )
            self._set(replica, ReplicaState.FAILED, _reason(state))
        # Only now: what waits for it may start another one.
        replica.gone.set()

    async def _last_words(self, name: str) -> tuple[Mapping[str, Any], str]:
        """Return how a container ended, and the end of its log."""
        try:
            found = await self._engine.do(lambda client: client.inspect_container(name))
            log_bytes = await self._engine.do(
                lambda client: client.logs(name, tail=_LOG_TAIL_LINES)
            )
        except EngineRefused:
            return {}, ""
        return {**found["State"], "Memory": found["HostConfig"]["Memory"]}, log_end(log_bytes)

    def _follow(self, replica: _Replica) -> None:
        name = replica.container.container_id
        self._replicas[name] = replica
        replica.readiness = self._tasks.start(
            self._watch_readiness(replica), f"readiness of {name}"
        )

    async def _watch_readiness(self, replica: _Replica) -> None:
        name = replica.container.container_id
        async for is_ready in watch_readiness(replica.container.endpoint, MONOTONIC):
            if replica.is_stopping:
                return
            if is_ready is None:
                log.error("replica does not answer and is killed", extra={"container": name})
                await self._signal(name, "SIGKILL")
                return
            # Without it, on a full disk, the next management takes it for starting at first.
            with contextlib.suppress(OSError):
                if is_ready:
                    (self._ready / name).touch()
                else:
                    (self._ready / name).unlink(missing_ok=True)
            state = ReplicaState.READY if is_ready else ReplicaState.STARTING
            if replica.container.state is not state:
                self._set(replica, state)

    def _set(self, replica: _Replica, state: ReplicaState, reason: str = "") -> None:
        replica.container = replace(replica.container, state=state, reason=reason)
        self._changes.publish(replica.container)

    def _container(self, found: Mapping[str, Any]) -> Container:
        """Return a container of ours that the engine lists; one that was ready is."""
        name = _name(found)
        own = docker_options.own_labels(found["Labels"])
        is_ready = (self._ready / name).exists()
        return Container(
            name,
            ReplicaId(ModelVersion(own["model"], own["version"]), int(own["replica"])),
            ReplicaState.READY if is_ready else ReplicaState.STARTING,
            self._endpoint(name, found),
            started_at=datetime.fromisoformat(own[_STARTED_AT]),
            labels={label: own[label] for label in LABELS},
        )

    def _endpoint(self, name: str, found: Mapping[str, Any]) -> str:
        network = self._settings.docker_network
        if not network:
            return f"unix:{self._socket(name)}"
        address = found["NetworkSettings"]["Networks"].get(network, {}).get("IPAddress", "")
        return f"{address}:{docker_options.PORT}"

    def _socket(self, name: str) -> Path:
        return socket_directory(self._settings.data_dir) / name.rpartition("-")[2] / "s"

    def _filter(self) -> Mapping[str, Sequence[str]]:
        # Images bear the other labels too, and what is made of them inherits those.
        return docker_options.label_filter(self._marks, "replica")

    async def _listed(self) -> Sequence[Mapping[str, Any]]:
        return await self._engine.do(
            lambda client: client.containers(all=True, filters=self._filter())
        )

    async def _is_ours(self, name: str) -> bool:
        if not _NAME.fullmatch(name):
            return False
        try:
            found = await self._engine.do(lambda client: client.inspect_container(name))
        except NotOnEngine:
            return False
        own = docker_options.own_labels(found["Config"]["Labels"] or {})
        return "replica" in own and own.items() >= self._marks.items()

    async def _signal(self, name: str, number: str) -> None:
        # One that ends meanwhile cannot be signalled; the event of its end is on its way.
        with contextlib.suppress(EngineRefused):
            await self._engine.do(lambda client: client.kill(name, number))

    async def _remove(self, name: str) -> None:
        self._clear(name)
        # What is left is swept.
        with contextlib.suppress(EngineRefused, ContainerManagerUnavailable):
            await self._engine.do(lambda client: client.remove_container(name, v=True, force=True))

    def _clear(self, name: str) -> None:
        (self._ready / name).unlink(missing_ok=True)
        shutil.rmtree(self._socket(name).parent, ignore_errors=True)

    async def _make_network(self, network: str) -> None:
        try:
            await self._engine.do(lambda client: client.inspect_network(network))
        except NotOnEngine:
            await self._engine.do(
                lambda client: client.create_network(
                    network,
                    driver="bridge",
                    internal=not self._settings.docker_internet,
                    labels=docker_options.labels(self._marks),
                )
            )

    async def _remove_network(self, network: str) -> None:
        if not network:
            return
        # It stays where somebody else is on it.
        with contextlib.suppress(EngineRefused):
            found = await self._engine.do(lambda client: client.inspect_network(network))
            if docker_options.own_labels(found["Labels"]).items() >= self._marks.items():
                await self._engine.do(lambda client: client.remove_network(network))


def _name(found: Mapping[str, Any]) -> str:
    return str(found["Names"][0]).lstrip("/")


def _reason(state: Mapping[str, Any]) -> str:
    if not state:
        return "somebody removed its container"
    if state["OOMKilled"]:
        return f"ran out of memory: its limit is {state['Memory'] // 1024**2} MiB"
    status = state["ExitCode"]
    return exit_reason(_SIGNALLED - status if status > _SIGNALLED else status)


def _make_socket_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    user = docker_options.container_user()
    if user != os.getuid():
        os.chown(directory, user, user)


def docker_engine_manager(settings: ManagementSettings) -> DockerEngineManager:
    """Return the manager that these settings describe."""
    return DockerEngineManager(settings)
