"""Several frontend processes on the same ports, and one metrics port for all.

The kernel distributes connections over the processes that listen on a port. Each worker follows
management and is linked to every replica. The parent kills and replaces a worker that hangs. When
the parent dies, its workers keep serving until the workers of its successor are ready.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from skysail_common.process.child_process import Child, Watch, python_module
from skysail_common.process.http_get import TIMEOUT_S, is_live, read_page
from skysail_common.process.lifecycle import BackgroundTasks, stop_event, wait_for_end, watch_parent
from skysail_common.process.ready_line import print_ready_line
from skysail_common.process.sockets import bound_socket, join_host_port
from skysail_common.rpc.transports import VARIABLE
from skysail_frontend.ingress.http_server import HttpServer, http_app
from skysail_frontend.monitoring.metrics import merge_pages
from skysail_frontend.monitoring.probes import Probes
from skysail_frontend.settings import FrontendSettings

log = logging.getLogger(__name__)

_STOP_SLACK_S = 5.0
_WATCH = Watch(is_live, patience_s=TIMEOUT_S, limit_s=10.0)
_SERVE_ON_S = 30.0
"""Longest time that the workers of a dead parent wait for its supervised successor."""


class WorkerPool:
    """The parent of several frontend processes, which share the gRPC and HTTP ports."""

    def __init__(self, settings: FrontendSettings) -> None:
        """Starts nothing before `run`."""
        self._settings = settings
        self._stop = stop_event()
        self._tasks = BackgroundTasks(on_failure=lambda _: self._stop.set())
        self._workers: list[Child] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._serving: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Run as many frontends as the settings say until SIGTERM or SIGINT.

        Raises:
            FailedPrecondition: an address is in use.
            StartFailed: a worker could not be started.
            SkysailError: the metrics server or the supervision of a worker ended.
        """
        if self._settings.watch_parent:
            self._tasks.start(watch_parent(self._stop.set), "watch parent")
        with ExitStack() as ports:
            self.build(ports)
            try:
                await self.start()
                await self.serve()
            finally:
                await self.drain()

    def build(self, ports: ExitStack) -> None:
        """Reserve the ports and create the workers without starting them.

        Args:
            ports: Releases the ports.

        Raises:
            FailedPrecondition: an address is in use.
        """
        settings = self._settings
        self._grpc_port = ports.enter_context(_reserve_port(settings, settings.grpc_port))
        self._http_port = ports.enter_context(_reserve_port(settings, settings.http_port))
        self._workers = [self._build_worker(index) for index in range(settings.workers)]
        pages = _WorkerPages(self._workers)
        self._probes = Probes(pages.is_ready)
        routes = [Route("/metrics", pages.metrics), *self._probes.routes()]
        self._metrics_server = HttpServer(http_app(routes, settings.allowed_hosts()), 1.0)
        self._metrics_port = self._metrics_server.bind(settings.host, settings.metrics_port)

    def _build_worker(self, index: int) -> Child:
        environment = _worker_environment(self._settings, index, self._grpc_port, self._http_port)
        return Child(
            f"frontend worker {index}",
            lambda _: python_module("skysail_frontend"),
            os.environ | environment,  # noqa: TID251 - inherited
            watch=_WATCH,
            # A supervisor stops the workers of a parent that died by their common session.
            has_session=not self._settings.watch_parent,
        )

    async def start(self) -> None:
        """Start the workers and the metrics server, and print the ready line.

        Raises:
            StartFailed: a worker could not be started.
        """
        settings, tasks = self._settings, self._tasks
        await asyncio.gather(*(worker.start() for worker in self._workers))
        self._keeping = [
            tasks.start(worker.keep_running(), f"keep {worker.name} running")
            for worker in self._workers
        ]
        self._serving = [tasks.start(self._metrics_server.serve(), "serve metrics")]
        print_ready_line(
            "frontend",
            settings.log_format,
            grpc=join_host_port(settings.host, self._grpc_port),
            http=join_host_port(settings.host, self._http_port),
            metrics=join_host_port(settings.host, self._metrics_port),
        )

    async def serve(self) -> None:
        """Wait for SIGTERM or SIGINT.

        Raises:
            SkysailError: the metrics server or the supervision of a worker ended before.
        """
        await wait_for_end(self._stop, [*self._serving, *self._keeping])

    async def drain(self) -> None:
        """Stop the workers, each after it has answered its queries, then the metrics server."""
        self._probes.drain()
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)
        timeout_s = 2 * self._settings.drain_timeout_s + _STOP_SLACK_S
        await asyncio.gather(*(worker.stop(timeout_s) for worker in self._workers))
        self._metrics_server.stop()
        if self._serving:
            await asyncio.wait(self._serving, timeout=_STOP_SLACK_S)
        await self._tasks.stop()


@contextmanager
def _reserve_port(settings: FrontendSettings, port: int) -> Iterator[int]:
    """Hold a port inside the `with` block; only processes of this user can listen on it too."""
    if not settings.shares_ports:
        # A socket that does not share the port finds out whether another process holds it.
        with bound_socket(settings.host, port) as probe:
            port = int(probe.getsockname()[1])
    with bound_socket(settings.host, port, shares_port=True) as held:
        yield int(held.getsockname()[1])


def _worker_environment(
    settings: FrontendSettings, index: int, grpc_port: int, http_port: int
) -> Mapping[str, str]:
    """Return the environment variables with the settings of one worker."""
    shared = {"transport"}
    values = settings.model_dump(mode="json", exclude_none=True, exclude=shared) | {
        "workers": 1,
        "shares_ports": True,
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": 0,
        "watch_parent": True,
        "serve_on_s": _SERVE_ON_S if settings.watch_parent else 0.0,
        "frontend_id": f"{settings.frontend_id or socket.gethostname()}-{index}",
    }
    if settings.snapshot_file is not None:
        values["snapshot_file"] = f"{settings.snapshot_file}.{index}"
    prefix = str(settings.model_config.get("env_prefix", ""))
    return {
        **{f"{prefix}{name}".upper(): str(value) for name, value in values.items()},
        VARIABLE: settings.transport,
    }


class _WorkerPages:
    """The metrics and the readiness of all workers, read from the metrics page of each."""

    def __init__(self, workers: list[Child]) -> None:
        self._workers = workers

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics of all workers that respond."""
        found = {worker: text for worker, (_, text) in (await self._read("/metrics")).items()}
        return Response(merge_pages(found), headers={"content-type": CONTENT_TYPE_LATEST})

    async def is_ready(self) -> bool:
        """Return whether every worker that responds is ready: the kernel picks any of them."""
        return {status for status, _ in (await self._read("/ready")).values()} == {200}

    async def _read(self, path: str) -> dict[str, tuple[int, str]]:
        """Return status and text of a page of each worker that responds, by its index."""
        bound = [worker.bound for worker in self._workers]
        pages = await asyncio.gather(*(_try_read(each, path) for each in bound))
        return {str(index): page for index, page in enumerate(pages) if page is not None}


async def _try_read(bound: Mapping[str, str], path: str) -> tuple[int, str] | None:
    if not bound:
        return None
    try:
        return await read_page(bound["metrics"], path)
    except OSError as error:
        log.info("worker not responding", extra={"error": str(error)})
        return None
