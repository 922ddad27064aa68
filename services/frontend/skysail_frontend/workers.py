"""Several frontend processes on the same ports, and one metrics port for all.

The kernel shares connections among the processes that listen on a port. Each process follows
management by itself and is linked to every replica. One that hangs is killed and replaced. When the
parent dies, its workers serve on until those of its successor are ready.
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
"""Longest time until the successor of a supervised parent is ready."""


async def run_workers(settings: FrontendSettings) -> None:
    """Run as many frontends as the settings say until SIGTERM or SIGINT.

    Raises:
        FailedPrecondition: an address is in use.
        StartFailed: a worker could not be started.
        SkysailError: the server of the metrics has ended, or a worker is watched over no longer.
    """
    stop = stop_event()
    tasks = BackgroundTasks(on_failure=lambda _: stop.set())
    if settings.watch_parent:
        tasks.start(watch_parent(stop.set), "watch parent")
    with ExitStack() as stack:
        grpc_port = stack.enter_context(_reserve_port(settings, settings.grpc_port))
        http_port = stack.enter_context(_reserve_port(settings, settings.http_port))
        workers = [
            Child(
                f"frontend worker {index}",
                lambda _: python_module("skysail_frontend"),
                os.environ  # noqa: TID251 - inherited
                | _worker_environment(settings, index, grpc_port, http_port),
                watch=_WATCH,
                # The supervisor stops by the session what the parent leaves when it dies.
                has_session=not settings.watch_parent,
            )
            for index in range(settings.workers)
        ]
        page = _WorkerPages(workers)
        probes = Probes(page.is_ready)
        routes = [Route("/metrics", page.metrics), *probes.routes()]
        metrics = HttpServer(http_app(routes, settings.allowed_hosts()), 1.0)
        metrics_port = metrics.bind(settings.host, settings.metrics_port)
        keeping: list[asyncio.Task[None]] = []
        serving: list[asyncio.Task[None]] = []
        try:
            await asyncio.gather(*(worker.start() for worker in workers))
            keeping = [
                tasks.start(worker.keep_running(), f"keep {worker.name} running")
                for worker in workers
            ]
            serving.append(tasks.start(metrics.serve(), "serve metrics"))
            print_ready_line(
                "frontend",
                settings.log_format,
                grpc=join_host_port(settings.host, grpc_port),
                http=join_host_port(settings.host, http_port),
                metrics=join_host_port(settings.host, metrics_port),
            )
            await wait_for_end(stop, [*serving, *keeping])
        finally:
            probes.drain()
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            timeout_s = 2 * settings.drain_timeout_s + _STOP_SLACK_S
            await asyncio.gather(*(worker.stop(timeout_s) for worker in workers))
            metrics.stop()
            if serving:
                await asyncio.wait(serving, timeout=_STOP_SLACK_S)
            await tasks.stop()


@contextmanager
def _reserve_port(settings: FrontendSettings, port: int) -> Iterator[int]:
    """Hold a port that only processes of this user can listen on, inside the `with` block."""
    if not settings.shares_ports:
        # Not among those who share: an address that another holds is refused.
        with bound_socket(settings.host, port) as probe:
            port = int(probe.getsockname()[1])
    with bound_socket(settings.host, port, shares_port=True) as held:
        yield int(held.getsockname()[1])


def _worker_environment(
    settings: FrontendSettings, index: int, grpc_port: int, http_port: int
) -> Mapping[str, str]:
    """Return the environment that gives one worker its settings."""
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
    """The pages of all workers."""

    def __init__(self, workers: list[Child]) -> None:
        self._workers = workers

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics of all workers that answer."""
        found = {worker: text for worker, (_, text) in (await self._read("/metrics")).items()}
        return Response(merge_pages(found), headers={"content-type": CONTENT_TYPE_LATEST})

    async def is_ready(self) -> bool:
        """Return whether every worker that answers takes queries; the kernel picks among those."""
        return {status for status, _ in (await self._read("/ready")).values()} == {200}

    async def _read(self, path: str) -> dict[str, tuple[int, str]]:
        """Return the page of each worker that answers, by its index."""
        bound = [worker.bound for worker in self._workers]
        pages = await asyncio.gather(*(_try_read(each, path) for each in bound))
        return {str(index): page for index, page in enumerate(pages) if page is not None}


async def _try_read(bound: Mapping[str, str], path: str) -> tuple[int, str] | None:
    if not bound:
        return None
    try:
        return await read_page(bound["metrics"], path)
    except OSError as error:
        log.info("worker does not answer", extra={"error": str(error)})
        return None
