"""Store, management and frontend of a local cluster, in the order in which they need each other."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from skysail.clusters.cluster_file import read_endpoints, remove_endpoints
from skysail.clusters.local.store import EmbeddedStore, stop_stray_store, store_socket
from skysail.clusters.options import ClusterEndpoints, ClusterOptions, frontend_scheme
from skysail_common.errors import FailedPrecondition
from skysail_common.process.child_process import Child, Watch, python_module
from skysail_common.process.data_dir import log_path, private_directory, remove_socket_directory
from skysail_common.process.http_get import TIMEOUT_S, is_live
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.process.sockets import local_endpoint, split_host_port
from skysail_common.rpc import health_check

_FRONTEND_STOP_S = 20.0
_MANAGEMENT_STOP_S = 10.0
_REPLICAS_STOP_S = 60.0
_STORE_STOP_S = 15.0


async def _is_management_live(bound: Mapping[str, str]) -> bool:
    endpoint = bound.get("socket") or local_endpoint(bound["grpc"])
    return await health_check.is_serving(endpoint, health_check.LIVENESS)


_MANAGEMENT_WATCH = Watch(_is_management_live, patience_s=health_check.TIMEOUT_S, limit_s=30.0)
# The limit is shorter than that of management, because callers wait for a frontend.
_FRONTEND_WATCH = Watch(is_live, patience_s=TIMEOUT_S, limit_s=10.0)


class LocalServices:
    """The child processes of one local cluster."""

    def __init__(
        self, options: ClusterOptions, environment: Mapping[str, str], tasks: BackgroundTasks
    ) -> None:
        """Creates the services without starting them.

        Args:
            options: The cluster.
            environment: Variables that the services inherit.
            tasks: Group of the tasks that restart services; their failure is the caller's.
        """
        self._options = options
        self._environment = dict(environment)
        self._tasks = tasks
        self._store: Child | None = None
        self._management: Child | None = None
        self._frontend: Child | None = None

    async def start(self) -> ClusterEndpoints:
        """Start every service and return once a frontend takes queries.

        Raises:
            StartFailed: a service does not start.
        """
        redis_url = self._options.redis_url or await self._start_store()
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
            hands_over=self._options.num_workers > 1,
        )
        await self._start_child(self._frontend)
        bound = self._frontend.bound
        return ClusterEndpoints(
            management,
            bound["grpc"],
            bound["http"],
            bound["metrics"],
            scheme=frontend_scheme(self._environment),
            socket=socket,
        )

    async def stop(self) -> bool:
        """Stop every service and all replicas; False if replicas may be left.

        The caller stops the group of tasks first, so that no service is restarted.
        """
        has_stopped_replicas = True
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

    async def _start_child(self, child: Child) -> None:
        await child.start()
        self._tasks.start(child.keep_running(), f"keep {child.name} running")

    async def _start_store(self) -> str:
        # The import is here because the base install lacks the client of the store.
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

    def _frontend_environment(self) -> dict[str, str]:
        own, of_management = (
            f"SKYSAIL_{part}_TOKEN_FILE" for part in ("FRONTEND_MANAGEMENT", "MANAGEMENT")
        )
        given = self._environment.get(of_management)
        return {**({own: given} if given else {}), **self._environment}

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
            # The workers of a parent that died keep serving until the new ones are ready.
            *(["--shares-ports"] if bound and options.num_workers > 1 else []),
        )  # fmt: skip


def _port_of(endpoint: str | None) -> int:
    return split_host_port(endpoint)[1] if endpoint else 0


async def stop_replicas(data_dir: Path, cluster: str, environment: Mapping[str, str]) -> bool:
    """Stop every replica that a management of this data directory started; False on failure."""
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


async def remove_leftovers(data_dir: Path, cluster: str, environment: Mapping[str, str]) -> bool:
    """Remove the processes that a killed cluster left behind; False if there are none.

    The caller holds the lock of the data directory.
    """
    # A cluster that was killed during its start recorded no endpoints, but may have processes.
    was_ready = bool(read_endpoints(data_dir).management)
    await stop_replicas(data_dir, cluster, environment)
    had_store = await stop_stray_store(data_dir)
    remove_endpoints(data_dir)
    remove_socket_directory(data_dir)
    return was_ready or had_store
