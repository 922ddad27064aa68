"""The containers of one cluster on a Docker engine, with their sockets or network.

<sockets>/<suffix>/s                 the socket; see skysail_common.process.data_dir
<data-dir>/containers/<container>    exists while the replica is ready
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from skysail_common.docker import labels as docker_labels
from skysail_common.docker.engine import (
    DockerEngine,
    EngineRefused,
    NotOnEngine,
    lines_of,
)
from skysail_common.errors import ContainerManagerUnavailable, ReplicaNotFound, SkysailError
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.process.data_dir import remove_socket_directory, socket_directory
from skysail_common.process.sockets import join_host_port
from skysail_common.states import ExitCode, ReplicaState
from skysail_management.containers.base import Container, ReplicaSpec
from skysail_management.containers.docker import options as docker_options
from skysail_management.containers.exit_reasons import (
    LOG_READ_BYTES,
    exit_reason,
    explain_exit,
    log_excerpt,
)
from skysail_management.containers.replica_launch import (
    GPUS_LABEL,
    LABELS,
    replica_labels,
    replica_name,
)
from skysail_management.settings import ManagementSettings

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")
_STARTED_AT = "started-at"
_LOG_TAIL_LINES = 100
_SIGNALLED = 128
"""An exit status above this value means that a signal ended the process."""


@dataclass(frozen=True)
class FoundContainer:
    """A container on the engine, running or not."""

    container: Container
    is_running: bool


class ClusterContainers:
    """Starts, finds and removes the containers of one cluster; keeps nothing in memory."""

    def __init__(self, marks: Mapping[str, str], settings: ManagementSettings) -> None:
        """Label containers with `marks`, by which they are found again."""
        self._marks = dict(marks)
        self._settings = settings
        self._engine = DockerEngine(settings.docker_host)
        self._ready = settings.data_dir / "containers"

    async def open(self) -> None:
        """Create the directory of readiness files, and the network if one is configured.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
        """
        self._ready.mkdir(parents=True, exist_ok=True, mode=0o700)
        network = self._settings.docker_network
        if network and await self._own_labels_of_network() is None:
            await self._engine.do(
                lambda client: client.create_network(
                    network,
                    driver="bridge",
                    internal=not self._settings.docker_internet,
                    labels=docker_labels.labels(self._marks),
                )
            )

    async def close(self) -> None:
        """Close the connection to the engine."""
        await self._engine.close()

    async def clean_up(self) -> None:
        """Remove the unused network and directory of sockets that Skysail created."""
        remove_socket_directory(self._settings.data_dir)
        # The network stays if another container uses it.
        with contextlib.suppress(EngineRefused, ContainerManagerUnavailable):
            if (await self._own_labels_of_network() or {}).items() >= self._marks.items():
                network = self._settings.docker_network
                await self._engine.do(lambda client: client.remove_network(network))

    async def _own_labels_of_network(self) -> Mapping[str, str] | None:
        network = self._settings.docker_network
        if not network:
            return None
        try:
            found = await self._engine.do(lambda client: client.inspect_network(network))
        except NotOnEngine:
            return None
        return docker_labels.own_labels(found["Labels"] or {})

    def new_container(self, spec: ReplicaSpec) -> Container:
        """Return a container that does not exist yet, with a unique name."""
        return Container(
            f"skysail-{replica_name(spec)}-{secrets.token_hex(4)}",
            spec.replica_id,
            ReplicaState.STARTING,
            started_at=datetime.now(timezone.utc),
            labels=replica_labels(self._settings.cluster, spec),
        )

    async def run(
        self, container: Container, spec: ReplicaSpec, image: docker_options.PreparedImage
    ) -> str:
        """Start a container and return its endpoint; a failure leaves nothing behind.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
            SkysailError: the container cannot be started.
        """
        name = container.container_id
        marks = {**self._marks, **container.labels, _STARTED_AT: str(container.started_at)}
        is_started = False
        try:
            directory = self._socket(name).parent
            if not self._settings.docker_network:
                _make_socket_directory(directory)
            config = docker_options.replica_config(
                spec, image, marks, str(directory), self._settings
            )
            await self._engine.do(lambda client: client.create_container_from_config(config, name))
            await self._engine.do(lambda client: client.start(name))
            found = await self._engine.do(lambda client: client.inspect_container(name))
            is_started = True
        except OSError as error:
            raise SkysailError(f"cannot create its socket directory: {error}") from error
        finally:
            if not is_started:
                await self.remove(name)
        return self._endpoint(name, found)

    async def list(self) -> Sequence[FoundContainer]:
        """Return every container of the cluster, running or ended, by its start."""
        found = await self._engine.do(
            lambda client: client.containers(all=True, filters=self._filter())
        )
        known = [each for container in found if (each := self._parse(container)) is not None]
        return sorted(known, key=lambda each: str(each.container.started_at))

    def _parse(self, found: Mapping[str, Any]) -> FoundContainer | None:
        try:
            return FoundContainer(self._container(found), found["State"] == "running")
        except (KeyError, ValueError, SkysailError) as error:
            # A foreign container with these labels must not hide the others.
            facts = {"container": found.get("Id"), "error": repr(error)}
            log.error("container not readable", extra=facts)
            return None

    async def is_running(self, name: str) -> bool:
        """Return whether a container runs now.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
        """
        try:
            found = await self._engine.do(lambda client: client.inspect_container(name))
        except NotOnEngine:
            return False
        return bool(found["State"]["Running"])

    @asynccontextmanager
    async def watch_exits(self) -> AsyncIterator[AsyncIterator[str]]:
        """Open a stream of the names of ended containers inside the block."""
        wanted = {**self._filter(), "type": "container", "event": "die"}
        async with self._engine.stream(
            lambda client: client.events(filters=wanted, decode=True)
        ) as events:
            yield (event["Actor"]["Attributes"]["name"] async for event in events)

    async def inspect_exit(self, container: Container) -> Container:
        """Return an ended container: FAILED, with the reason and the end of its log."""
        name = container.container_id
        try:
            found = await self._engine.do(lambda client: client.inspect_container(name))
        except NotOnEngine:
            return replace(container, state=ReplicaState.FAILED, reason="its container was removed")
        status = found["State"]["ExitCode"]
        if found["State"]["OOMKilled"]:
            limit_mib = found["HostConfig"]["Memory"] // 1024**2
            reason = f"ran out of memory: its limit is {limit_mib} MiB"
        else:
            reason = exit_reason(_SIGNALLED - status if status > _SIGNALLED else status)
        log = await self._last_lines(name)
        return replace(
            container,
            state=ReplicaState.FAILED,
            reason=explain_exit(reason, log),
            is_permanent=status == ExitCode.LOAD_FAILED,
            log_tail=log_excerpt(log),
        )

    async def _last_lines(self, name: str) -> bytes | str:
        try:
            log: bytes = await self._engine.do(
                lambda client: client.logs(name, tail=_LOG_TAIL_LINES)
            )
        except EngineRefused as error:
            return f"cannot read the log: {error.message}"
        return log[-LOG_READ_BYTES:]

    async def logs(self, name: str, tail_lines: int, follow: bool) -> AsyncIterator[str]:
        """Yield the last lines of a log and, if `follow`, new lines.

        Raises:
            ReplicaNotFound: the cluster has no such container.
        """
        if not await self._is_ours(name):
            raise ReplicaNotFound(f"no log of container {name!r} exists")
        async for line in lines_of(self._stream_log(name, tail_lines, follow)):
            yield line

    async def _stream_log(self, name: str, tail_lines: int, follow: bool) -> AsyncIterator[bytes]:
        last = b""
        async with self._entries(name, tail_lines, follow) as entries:
            async for entry in entries:
                last, _, text = entry.partition(b" ")
                yield text
        if follow:
            # Some engines end the stream before the last line, so that the end is read again. A
            # container that was stopped is gone by now.
            with contextlib.suppress(EngineRefused):
                async with self._entries(name, _LOG_TAIL_LINES, follow=False) as entries:
                    async for entry in entries:
                        instant, _, text = entry.partition(b" ")
                        if instant > last:
                            yield text

    def _entries(
        self, name: str, tail_lines: int, follow: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open the entries of a log inside the block, each with a timestamp that sorts as text."""
        return self._engine.stream(
            lambda client: client.logs(
                name, stream=True, follow=follow, tail=tail_lines, timestamps=True
            )
        )

    async def signal(self, name: str, number: str) -> None:
        """Send a signal; ignore a container that does not exist or has ended."""
        with contextlib.suppress(EngineRefused):
            await self._engine.do(lambda client: client.kill(name, number))

    async def remove(self, name: str) -> None:
        """Remove a container and its files; the next sweep retries after a failure."""
        self.remove_traces(name)
        with contextlib.suppress(EngineRefused, ContainerManagerUnavailable):
            await self._engine.do(lambda client: client.remove_container(name, v=True, force=True))

    def remove_traces(self, name: str) -> None:
        """Remove the socket and readiness file of an ended container; its log stays."""
        with contextlib.suppress(OSError):
            (self._ready / name).unlink(missing_ok=True)
        shutil.rmtree(self._socket(name).parent, ignore_errors=True)

    def mark_ready(self, name: str, is_ready: bool) -> None:
        """Record for the next management whether a replica is ready."""
        # The write may fail on a full disk; the next management then sees the replica as starting.
        with contextlib.suppress(OSError):
            if is_ready:
                (self._ready / name).touch()
            else:
                (self._ready / name).unlink(missing_ok=True)

    def _container(self, found: Mapping[str, Any]) -> Container:
        name = str(found["Names"][0]).lstrip("/")
        own = docker_labels.own_labels(found["Labels"])
        is_ready = (self._ready / name).exists()
        return Container(
            name,
            ReplicaId(ModelVersion(own["model"], own["version"]), int(own["replica"])),
            ReplicaState.READY if is_ready else ReplicaState.STARTING,
            self._endpoint(name, found),
            started_at=datetime.fromisoformat(own[_STARTED_AT]),
            labels={
                **{label: own[label] for label in LABELS},
                **{label: own[label] for label in (GPUS_LABEL,) if label in own},
            },
        )

    def _endpoint(self, name: str, found: Mapping[str, Any]) -> str:
        network = self._settings.docker_network
        if not network:
            return f"unix:{self._socket(name)}"
        address = found["NetworkSettings"]["Networks"].get(network, {}).get("IPAddress", "")
        return join_host_port(address, docker_options.PORT)

    def _socket(self, name: str) -> Path:
        return socket_directory(self._settings.data_dir) / name.rpartition("-")[2] / "s"

    def _filter(self) -> Mapping[str, Sequence[str]]:
        # Images have the other labels too, and other containers inherit them from their image.
        return docker_labels.label_filter(self._marks, "replica")

    async def _is_ours(self, name: str) -> bool:
        if not _NAME.fullmatch(name):
            return False
        try:
            found = await self._engine.do(lambda client: client.inspect_container(name))
        except NotOnEngine:
            return False
        own = docker_labels.own_labels(found["Config"]["Labels"] or {})
        return "replica" in own and own.items() >= self._marks.items()


def _make_socket_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    user = docker_options.container_user()
    if user != os.getuid():
        os.chown(directory, user, user)
