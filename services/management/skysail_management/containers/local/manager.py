"""The local container manager: a replica is a child process with a unix socket.

Each process leads its own session, so that it outlives a management that crashes. A small file
beside its log lets the next management adopt it.

    <data-dir>/replicas/<container id>/   container.json  replica.log  ready
                                  work/   see work_directories.py
    <data-dir>/environments/<hash>/       see environments.py
"""

import asyncio
import contextlib
import logging
import platform
import secrets
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from skysail_common.clock import MONOTONIC
from skysail_common.errors import ReplicaNotFound, SkysailError
from skysail_common.process.data_dir import remove_socket_directory, socket_directory
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.process.threads import in_thread
from skysail_common.resources import Resources
from skysail_common.states import ExitCode, ReplicaState
from skysail_management.containers.base import (
    Container,
    ContainerManager,
    Needed,
    Progress,
    ReplicaSpec,
    VersionSpec,
)
from skysail_management.containers.change_feed import ChangeFeed, retry_until_done
from skysail_management.containers.exit_reasons import (
    SILENT,
    exit_reason,
    explain_exit,
    log_excerpt,
)
from skysail_management.containers.gpus import GpuReservation, Gpus, find_devices
from skysail_management.containers.local.environments import Environments
from skysail_management.containers.local.log_files import read_log, read_log_end
from skysail_management.containers.local.options import (
    LOG_FILE_VARIABLE,
    process_environment,
    replica_command,
)
from skysail_management.containers.local.process_launch import launch
from skysail_management.containers.local.process_records import (
    ProcessRecord,
    log_file,
    read_record,
    superseded,
)
from skysail_management.containers.local.processes import (
    NO_START,
    is_same_process,
    kill_orphans,
    kill_processes_in,
    process_start,
    signal_process,
    signal_session,
    wait_for_exit,
)
from skysail_management.containers.local.work_directories import (
    remove_artifact,
    remove_dangling_links,
    remove_replica_directory,
    remove_short_link,
    work_directory,
)
from skysail_management.containers.readiness import watch_readiness
from skysail_management.containers.replica_launch import (
    check_python,
    replica_labels,
    replica_name,
)
from skysail_management.settings import ManagementSettings

log = logging.getLogger(__name__)

_EXIT_S = 5.0


class LocalProcessManager(ContainerManager):
    """Runs replicas as processes of this machine, which they share.

    The CPUs of a deployment set the number of its threads; nothing limits the process to them.
    """

    name = "local"

    def __init__(
        self,
        data_dir: Path,
        cluster: str,
        replica_variables: Mapping[str, str],
        install_variables: Mapping[str, str],
        gpu_devices: str = "auto",
    ) -> None:
        """Keep all files in `data_dir`.

        Args:
            data_dir: Directory of the replicas and environments.
            cluster: Name of the cluster.
            replica_variables: Environment variables that replicas inherit.
            install_variables: Environment variables of pip and uv.
            gpu_devices: The setting of this name.
        """
        self._data_dir = data_dir
        self._directory = data_dir / "replicas"
        self._blobs = data_dir.resolve() / "artifacts" / "blobs"
        self._cluster = cluster
        self._replica_variables = dict(replica_variables)
        self._environments = Environments(data_dir / "environments", install_variables, self._blobs)
        self._replicas: dict[str, ProcessRecord] = {}
        self._gpu_devices = gpu_devices
        self._gpus = Gpus(())
        self._waiting: dict[str, tuple[ReplicaSpec, Container]] = {}
        """Replicas that start when a GPU is free, by container."""
        self._changes = ChangeFeed()
        self._tasks = BackgroundTasks(self._changes.fail)

    def check_resources(self, resources: Resources) -> None:
        """Reject more GPUs than this machine has."""
        self._gpus.check(resources.gpus)

    async def open(self) -> None:
        """Adopt the processes that an earlier management left running."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        await in_thread(remove_dangling_links)
        devices = await in_thread(find_devices, self._gpu_devices, self._replica_variables)
        self._gpus = Gpus(devices)
        for directory in sorted(self._directory.iterdir()):
            replica = read_record(directory)
            if replica is None:
                # Management died between the start of the process and the write of its record.
                kill_processes_in(work_directory(directory).resolve())
            elif is_same_process(replica.pid, replica.start):
                self._follow(replica)
                log.info("replica adopted", extra={"replica": replica.container.replica_id})
            else:
                kill_orphans(replica.pid, LOG_FILE_VARIABLE, str(replica.log_file))
                replica.socket.unlink(missing_ok=True)
                remove_short_link(directory)
                await in_thread(remove_artifact, directory)

    async def close(self) -> None:
        """Release all processes without stopping them."""
        await self._tasks.stop()
        if not self._replicas:
            # A process that starts later needs the directory for its socket.
            remove_socket_directory(self._data_dir)

    async def prepare(
        self, version: VersionSpec, progress: Progress, *, verifies: bool = False
    ) -> None:
        """Build the environment of the version, unless it exists."""
        check_python(version, platform.python_version())
        await self._environments.prepare(version.requirements, progress)

    async def start(self, spec: ReplicaSpec) -> Container:
        """Start a process and return it as STARTING."""
        suffix = secrets.token_hex(4)
        container = Container(
            f"{replica_name(spec)}-{suffix}",
            spec.replica_id,
            ReplicaState.STARTING,
            f"unix:{socket_directory(self._data_dir) / suffix}.sock",
            started_at=datetime.now(timezone.utc),
            labels=replica_labels(self._cluster, spec),
        )
        gpus = self._gpus.take(container.container_id, spec.resources.gpus)
        if gpus is None:
            reason = self._gpus.why_waiting(spec.resources.gpus)
            self._waiting[container.container_id] = spec, replace(container, reason=reason)
            self._changes.publish(replace(container, reason=reason))
        else:
            await self._launch(spec, container, gpus)
        return container

    async def _launch(self, spec: ReplicaSpec, container: Container, gpus: GpuReservation) -> None:
        directory = self._directory / container.container_id
        environment = {
            **process_environment(
                spec, container.endpoint, directory, self._blobs, self._replica_variables
            ),
            **self._gpus.visible_to(gpus, spec.environment),
        }
        python = self._environments.python(spec.version.requirements)
        try:
            replica = await launch(container, directory, replica_command(python), environment, gpus)
        except OSError as error:
            self._gpus.release(container.container_id)
            raise SkysailError(f"cannot start its process: {error}") from error
        self._follow(replica)

    async def _launch_waiting(self) -> None:
        """Start the replicas for which GPUs are free now, in the order of their starts."""
        for name, (spec, container) in list(self._waiting.items()):
            gpus = self._gpus.take(name, spec.resources.gpus)
            if gpus is None:
                continue
            del self._waiting[name]
            container = replace(container, reason="")
            try:
                await self._launch(spec, container, gpus)
            except SkysailError as error:
                container = replace(container, state=ReplicaState.FAILED, reason=error.message)
            self._changes.publish(container)

    async def stop(self, container_id: str, drain_timeout_s: float) -> None:
        """Drain a process, and return when it is gone."""
        waiting = self._waiting.pop(container_id, None)
        if waiting is not None:
            self._changes.publish(replace(waiting[1], state=ReplicaState.STOPPED))
        replica = self._replicas.get(container_id)
        if replica is None:
            return
        replica.is_stopping = True
        self._set(replica, ReplicaState.DRAINING)
        # The signal goes to the leader only, which may need its child processes to finish.
        signal_process(replica.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(replica.gone.wait(), drain_timeout_s)
        except asyncio.TimeoutError:
            log.warning("replica not drained in time", extra={"container": container_id})
            signal_session(replica.pid, signal.SIGKILL)
            await replica.gone.wait()

    async def list(self) -> Sequence[Container]:
        """Return every live process, by the machine and the records on disk, and what waits."""
        known = list(self._replicas.values())
        living, recorded = await in_thread(self._look, known)
        for replica in known:
            if replica.container.container_id not in living and await self._has_exited(replica):
                await self._report_end(replica)
        for replica in recorded:
            # The process may have ended, or been replaced, in the meantime.
            is_known = replica.container.container_id in self._replicas
            if not is_known and is_same_process(replica.pid, replica.start):
                log.warning(
                    "replica adopted again", extra={"replica": replica.container.replica_id}
                )
                self._follow(replica)
        waiting = [container for _, container in self._waiting.values()]
        return [*(replica.container for replica in self._replicas.values()), *waiting]

    async def _has_exited(self, replica: ProcessRecord) -> bool:
        """Return True when a process whose main thread ended is gone as a whole."""
        if replica.child is None:
            return True
        # The kernel gives the pid to no other process until `wait`.
        signal_session(replica.pid, signal.SIGKILL)
        try:
            await asyncio.wait_for(wait_for_exit(replica.pid), _EXIT_S)
        except asyncio.TimeoutError:
            return False
        return True

    def _look(self, known: Sequence[ProcessRecord]) -> tuple[set[str], Sequence[ProcessRecord]]:
        """Return the names of the known live processes, and the records of unknown ones."""
        living = {
            each.container.container_id for each in known if is_same_process(each.pid, each.start)
        }
        names = {each.container.container_id for each in known}
        directories = [each for each in self._directory.iterdir() if each.name not in names]
        records = [found for each in directories if (found := read_record(each)) is not None]
        return living, [each for each in records if is_same_process(each.pid, each.start)]

    def watch(self) -> AsyncIterator[Container]:
        """Yield each process when its state changes."""
        return self._changes.watch()

    async def logs(self, container_id: str, tail_lines: int, follow: bool) -> AsyncIterator[str]:
        """Yield the last lines of a log and, if `follow`, new lines."""
        path = log_file(self._directory / Path(container_id).name)
        has_ended = (lambda: container_id not in self._replicas) if follow else None
        lines = read_log(path, tail_lines, has_ended)
        try:
            async with aclosing(lines):
                async for line in lines:
                    yield line
        except FileNotFoundError:
            raise ReplicaNotFound(f"no log of container {container_id!r} exists") from None

    async def sweep(self, needed: Needed) -> None:
        """Remove the directories of ended processes, and unused environments.

        The last failure of each replica of a needed version stays, so that its log can be read.
        """
        versions = {spec.model_version for spec in needed()}
        directories = [
            each for each in self._directory.iterdir() if each.name not in self._replicas
        ]
        for directory in superseded(directories, versions):
            await in_thread(remove_replica_directory, directory)
        await self._environments.sweep(lambda: [spec.requirements for spec in needed()])

    def _follow(self, replica: ProcessRecord) -> None:
        name = replica.container.container_id
        self._replicas[name] = replica
        self._gpus.hold(name, replica.gpus)
        replica.readiness = self._tasks.start(
            retry_until_done(lambda: self._watch_readiness(replica), f"readiness of {name}"),
            f"readiness of {name}",
        )
        self._tasks.start(
            retry_until_done(lambda: self._watch_exit(replica), f"exit of {name}"),
            f"exit of {name}",
        )

    async def _watch_readiness(self, replica: ProcessRecord) -> None:
        async for is_ready in watch_readiness(replica.container.endpoint, MONOTONIC):
            if replica.is_stopping:
                return
            if is_ready is None:
                facts = {"container": replica.container.container_id}
                log.error("silent replica killed", extra=facts)
                replica.is_silent = True
                signal_session(replica.pid, signal.SIGKILL)
                return
            # The write may fail on a full disk; the next management then sees the replica as
            # starting.
            with contextlib.suppress(OSError):
                if is_ready:
                    replica.ready_file.touch()
                else:
                    replica.ready_file.unlink(missing_ok=True)
            state = ReplicaState.READY if is_ready else ReplicaState.STARTING
            if replica.container.state is not state:
                self._set(replica, state)

    async def _watch_exit(self, replica: ProcessRecord) -> None:
        await wait_for_exit(replica.pid)
        await self._report_end(replica)

    async def _report_end(self, replica: ProcessRecord) -> None:
        """Report the end of a process once, and remove its socket and its session."""
        name = replica.container.container_id
        if self._replicas.get(name) is not replica:
            if replica.child is not None:
                replica.child.poll()
            return
        # Child processes of the user's code must not outlive it. Another process may have its pid
        # by now.
        if replica.child is not None or process_start(replica.pid) == NO_START:
            signal_session(replica.pid, signal.SIGKILL)
        status = replica.child.poll() if replica.child is not None else None
        del self._replicas[name]
        self._gpus.release(name)
        self._tasks.start(self._launch_waiting(), "starts that wait for a GPU")
        if replica.readiness is not None:
            replica.readiness.cancel()
        # From here on `stop` must not signal the pid, which another process may get.
        replica.gone.set()
        with contextlib.suppress(OSError):
            replica.socket.unlink(missing_ok=True)
            remove_short_link(replica.directory)
        if replica.is_stopping:
            await in_thread(remove_replica_directory, replica.directory)
            self._set(replica, ReplicaState.STOPPED)
        else:
            # The directory stays for its log, and must not keep the files of the artifact.
            await in_thread(remove_artifact, replica.directory)
            log_end_bytes = await in_thread(read_log_end, replica.log_file)
            replica.container = replace(
                replica.container,
                is_permanent=status == ExitCode.LOAD_FAILED,
                log_tail=log_excerpt(log_end_bytes),
            )
            reason = (
                SILENT if replica.is_silent else explain_exit(exit_reason(status), log_end_bytes)
            )
            self._set(replica, ReplicaState.FAILED, reason)

    def _set(self, replica: ProcessRecord, state: ReplicaState, reason: str = "") -> None:
        replica.container = replace(replica.container, state=state, reason=reason)
        self._changes.publish(replica.container)


def local_process_manager(settings: ManagementSettings) -> LocalProcessManager:
    """Return the manager for these settings."""
    return LocalProcessManager(
        settings.data_dir,
        settings.cluster,
        settings.replica_variables(),
        settings.install_variables(),
        settings.gpu_devices,
    )
