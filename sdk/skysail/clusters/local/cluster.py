"""A cluster on one machine: store, management and frontend as children of one process."""

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from skysail.clusters.local.embedded_store import EmbeddedStore, stop_stray_store, store_socket
from skysail.clusters.local.lock import LOCK_FILE, lock, lock_holder, note_that_nothing_is_left
from skysail.clusters.local.ports import check_ports
from skysail.clusters.options import ClusterEndpoints, ClusterOptions, scheme_of
from skysail.settings import CLUSTER_FILE, KUBERNETES_NOTE
from skysail_common.clock import MONOTONIC
from skysail_common.errors import FailedPrecondition, SkysailError
from skysail_common.process.child_process import Child, Watch, python_module
from skysail_common.process.data_dir import (
    cannot_use,
    log_path,
    private_directory,
    remove_socket_directory,
)
from skysail_common.process.http_get import TIMEOUT_S, is_live
from skysail_common.process.lifecycle import BackgroundTasks, stop_event
from skysail_common.process.log_rotation import keep_small
from skysail_common.process.sockets import check_management_host, local_endpoint, split_host_port
from skysail_common.rpc import health_check

log = logging.getLogger(__name__)

_FRONTEND_STOP_S = 20.0
_MANAGEMENT_STOP_S = 10.0
_REPLICAS_STOP_S = 60.0
_STORE_STOP_S = 15.0
_DOWN_TIMEOUT_S = 120.0
_DOWN_CHECK_S = 0.05
DOCKER_NOTE = "cluster.docker"
"""File that exists in the data directory while containers of the services may; names their engine."""


async def _management_answers(bound: Mapping[str, str]) -> bool:
    endpoint = bound.get("socket") or local_endpoint(bound["grpc"])
    return await health_check.is_serving(endpoint, health_check.LIVENESS)


_MANAGEMENT_WATCH = Watch(_management_answers, patience_s=health_check.TIMEOUT_S, limit_s=30.0)
# Callers wait for a frontend; nobody waits for management.
_FRONTEND_WATCH = Watch(is_live, patience_s=TIMEOUT_S, limit_s=10.0)


class Cluster:
    """The processes of a cluster, in the order in which they need each other."""

    def __init__(self, options: ClusterOptions, environment: Mapping[str, str]) -> None:
        """Starts nothing yet; children get `environment`."""
        self._options = options
        self._environment = dict(environment)
        self._tasks = BackgroundTasks(self._fail)
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._store: Child | None = None
        self._management: Child | None = None
        self._frontend: Child | None = None

    async def run(self, on_ready: Callable[[ClusterEndpoints], None]) -> None:
        """Run the cluster until SIGTERM, SIGINT or SIGHUP, then stop all of it.

        Raises:
            FailedPrecondition: the data directory is in use by another cluster, or a port is, or
            management would be open to everybody.
            StartFailed: a service does not start.
            SkysailError: a service is not watched over any more, by a mistake of ours.
        """
        self._stopping = stop_event()
        self._check_doors()
        # Held until the process has ended: then nothing of it is left.
        held = lock(self._options.data_dir)
        check_ports(self._options.addresses())
        logs = [log_path(self._options.data_dir, name) for name in ("cluster", "store")]
        self._tasks.start(keep_small(logs), "rotate logs")
        # `skysail down` stops what was started last.
        (self._options.data_dir / KUBERNETES_NOTE).unlink(missing_ok=True)
        starting = asyncio.ensure_future(self._start())
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                endpoints = starting.result()
                write_cluster_file(self._options.data_dir, endpoints)
                on_ready(endpoints)
                await stopped
        finally:
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)
            if await self._stop():
                note_that_nothing_is_left(held)
            await self._tasks.stop()
        if self._failure is not None:
            raise SkysailError(f"the supervisor failed: {self._failure!r}") from self._failure

    def _check_doors(self) -> None:
        guards = ("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE", "TOKEN_FILE")
        check_management_host(
            self._options.management_host,
            is_guarded=all(self._environment.get(f"SKYSAIL_MANAGEMENT_{each}") for each in guards),
            is_insecure=self._options.insecure,
        )

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._stopping.set()

    async def _start(self) -> ClusterEndpoints:
        options = self._options
        await stop_stray_store(options.data_dir)
        redis_url = options.redis_url or await self._start_store()
        self._management = Child(
            "management",
            self._management_command,
            {**self._environment, "SKYSAIL_REDIS_URL": redis_url},
            watch=_MANAGEMENT_WATCH,
        )
        await self._start_child(self._management)
        management = self._management.bound["grpc"]
        socket = self._management.bound.get("socket", "")
        self._frontend = Child(
            "frontend",
            lambda bound: self._frontend_command(bound, socket or management),
            self._frontend_environment(),
            watch=_FRONTEND_WATCH,
            hands_over=options.num_workers > 1,
        )
        await self._start_child(self._frontend)
        bound = self._frontend.bound
        return ClusterEndpoints(
            management,
            bound["grpc"],
            bound["http"],
            bound["metrics"],
            scheme=scheme_of(self._environment),
            socket=socket,
        )

    def _frontend_environment(self) -> dict[str, str]:
        own, of_management = (
            f"SKYSAIL_{part}_TOKEN_FILE" for part in ("FRONTEND_MANAGEMENT", "MANAGEMENT")
        )
        given = self._environment.get(of_management)
        return {**({own: given} if given else {}), **self._environment}

    async def _start_child(self, child: Child) -> None:
        await child.start()
        self._tasks.start(child.keep_running(), f"keep {child.name} running")

    async def _start_store(self) -> str:
        # Only here, because the store's client is no part of the base install.
        from skysail_common.store import embedded

        socket = store_socket(self._options.data_dir)
        directory = private_directory(self._options.data_dir / "store")
        self._store = EmbeddedStore(
            embedded.server_command(directory, socket),
            self._environment,
            log_path(self._options.data_dir, "store"),
            lambda: embedded.wait_until_ready(socket),
        )
        await self._start_child(self._store)
        return embedded.server_url(socket)

    def _common_flags(self) -> list[str]:
        options = self._options
        return [
            "--log-level", options.log_level, "--log-format", options.log_format, "--watch-parent",
        ]  # fmt: skip

    def _management_command(self, bound: Mapping[str, str]) -> list[str]:
        options = self._options
        port = _port_of(bound.get("grpc")) or options.management_port
        manager = options.container_manager
        return python_module(
            "skysail_management", *self._common_flags(), "--cluster", options.cluster,
            "--data-dir", str(options.data_dir), "--port", str(port),
            "--host", options.management_host,
            *(["--insecure"] if options.insecure else []),
            *(word for name in options.pass_env for word in ("--pass-env", name)),
            *(["--container-manager", manager] if manager else []),
        )  # fmt: skip

    def _frontend_command(self, bound: Mapping[str, str], management: str) -> list[str]:
        options = self._options
        grpc_port = _port_of(bound.get("grpc")) or options.grpc_port
        http_port = _port_of(bound.get("http")) or options.http_port
        metrics_port = _port_of(bound.get("metrics")) or options.metrics_port
        return python_module(
            "skysail_frontend", *self._common_flags(), "--host", options.host,
            "--management-endpoint", management,
            "--grpc-port", str(grpc_port), "--http-port", str(http_port),
            "--metrics-port", str(metrics_port), "--workers", str(options.num_workers),
            "--snapshot-file", str(options.data_dir / "routes.snapshot"),
            "--frontend-id", f"{options.cluster}-frontend",
            # The workers of a parent that died serve on until this one's are ready.
            *(["--shares-ports"] if bound and options.num_workers > 1 else []),
        )  # fmt: skip

    async def _stop(self) -> bool:
        """Stop everything; False if replicas may be left."""
        has_stopped_replicas = True
        (self._options.data_dir / CLUSTER_FILE).unlink(missing_ok=True)
        # Processes that end from now on are not restarted.
        await self._tasks.stop()
        if self._frontend is not None:
            await self._frontend.stop(_FRONTEND_STOP_S)
        if self._management is not None:
            # Management leaves its replicas to the next one, and no next one starts here.
            await self._management.stop(_MANAGEMENT_STOP_S)
            has_stopped_replicas = await stop_replicas(
                self._options.data_dir, self._options.cluster, self._environment
            )
        if self._store is not None:
            await self._store.stop(_STORE_STOP_S)
        with contextlib.suppress(FailedPrecondition):
            remove_socket_directory(self._options.data_dir)
        return has_stopped_replicas


def _port_of(endpoint: str | None) -> int:
    return split_host_port(endpoint)[1] if endpoint else 0


def write_cluster_file(data_dir: Path, endpoints: ClusterEndpoints) -> None:
    """Tell other processes how the cluster is reached.

    Raises:
        FailedPrecondition: the data directory cannot be written.
    """
    record = {"pid": os.getpid(), **vars(endpoints)}
    temporary = data_dir / f"{CLUSTER_FILE}.new"
    try:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(record))
        temporary.replace(data_dir / CLUSTER_FILE)
    except OSError as error:
        raise cannot_use(temporary, error) from error


async def stop_replicas(data_dir: Path, cluster: str, environment: Mapping[str, str]) -> bool:
    """Stop every replica that a management of this data directory started; False if it failed."""
    process = await asyncio.create_subprocess_exec(
        *python_module(
            "skysail_management", "--data-dir", str(data_dir), "--cluster", cluster,
            "--stop-replicas-only", "--log-level", "warning",
        ),
        stdin=asyncio.subprocess.DEVNULL,
        env=dict(environment),
    )  # fmt: skip
    try:
        await asyncio.wait_for(process.wait(), _REPLICAS_STOP_S)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
    return process.returncode == 0


async def stop_cluster(data_dir: Path, cluster: str, environment: Mapping[str, str]) -> bool:
    """Stop the cluster of a data directory, or remains of a killed one; False without either.

    Raises:
        FailedPrecondition: it does not end within two minutes.
    """
    if not (data_dir / LOCK_FILE).exists():
        return False
    pid = 0
    end = MONOTONIC() + _DOWN_TIMEOUT_S
    while MONOTONIC() < end:
        last_holder = lock_holder(data_dir)
        try:
            descriptor = lock(data_dir)
        except FailedPrecondition:
            holder = lock_holder(data_dir)
            # A cluster that starts has no file for a moment.
            if holder and holder != pid:
                pid = holder
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            await asyncio.sleep(_DOWN_CHECK_S)
        else:
            try:
                has_left = last_holder != 0 and await _remove_leftovers(
                    data_dir, cluster, environment
                )
                note_that_nothing_is_left(descriptor)
            finally:
                os.close(descriptor)
            return has_left or pid != 0
    raise FailedPrecondition(f"the cluster in {data_dir} (process {pid}) does not end")


async def _remove_leftovers(data_dir: Path, cluster: str, environment: Mapping[str, str]) -> bool:
    # A cluster that was killed before it was ready has left no such file, but perhaps processes.
    was_ready = (data_dir / CLUSTER_FILE).exists()
    await stop_replicas(data_dir, cluster, environment)
    had_store = await stop_stray_store(data_dir)
    had_containers = await _remove_containers(data_dir, environment)
    (data_dir / CLUSTER_FILE).unlink(missing_ok=True)
    remove_socket_directory(data_dir)
    return was_ready or had_store or had_containers


async def _remove_containers(data_dir: Path, environment: Mapping[str, str]) -> bool:
    """Remove remains of a killed cluster from a Docker engine; False if there are none."""
    if not (data_dir / DOCKER_NOTE).exists():
        return False
    # Only here, because the client of the engine is no part of the base install.
    from skysail.clusters.docker.services import DockerServices

    # The engine of that time, which DOCKER_HOST may not name now.
    host = (data_dir / DOCKER_NOTE).read_text()
    services = DockerServices(data_dir, {**environment, **({"DOCKER_HOST": host} if host else {})})
    was_found = await services.remove()
    await services.close()
    (data_dir / DOCKER_NOTE).unlink()
    return was_found
