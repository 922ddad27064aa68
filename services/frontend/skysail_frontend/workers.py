"""Several frontend processes on the same ports, and one metrics port for all.

The kernel shares connections among the processes that listen on a port. Each process follows
management by itself and is linked to every replica.
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

from skysail_common.child import Child, python_module
from skysail_common.lifecycle import BackgroundTasks, stop_event, watch_parent
from skysail_common.rpc.serving import print_ready_line
from skysail_common.rpc.transports import VARIABLE
from skysail_common.sockets import bound_socket, join_host_port
from skysail_frontend.ingress.http_server import HttpServer, http_app
from skysail_frontend.metrics import merged
from skysail_frontend.pages import read_page
from skysail_frontend.probes import Probes
from skysail_frontend.settings import FrontendSettings

log = logging.getLogger(__name__)

_STOP_SLACK_S = 5.0


async def run_workers(settings: FrontendSettings) -> None:
    """Run as many frontends as the settings say until SIGTERM or SIGINT.

    Raises:
        FailedPrecondition: an address is in use.
        StartFailed: a worker could not be started.
    """
    stop = stop_event()
    tasks = BackgroundTasks(on_failure=lambda _: stop.set())
    if settings.watch_parent:
        tasks.start(watch_parent(stop.set), "watch parent")
    with ExitStack() as stack:
        grpc_port = stack.enter_context(_reserved(settings.host, settings.grpc_port))
        http_port = stack.enter_context(_reserved(settings.host, settings.http_port))
        workers = [
            Child(
                f"frontend worker {index}",
                lambda _: python_module("skysail_frontend"),
                os.environ  # noqa: TID251 - inherited
                | _worker_settings(settings, index, grpc_port, http_port),
            )
            for index in range(settings.workers)
        ]
        page = _Page(workers)
        probes = Probes(page.is_ready)
        routes = [Route("/metrics", page.metrics), *probes.routes()]
        metrics = HttpServer(http_app(routes), 1.0)
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
                grpc=join_host_port(settings.host, grpc_port),
                http=join_host_port(settings.host, http_port),
                metrics=join_host_port(settings.host, metrics_port),
            )
            await stop.wait()
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
def _reserved(host: str, port: int) -> Iterator[int]:
    """Hold a port that only processes of ours can listen on, inside the `with` block."""
    # Not among those who share: an address that another holds is refused.
    with bound_socket(host, port) as probe:
        port = int(probe.getsockname()[1])
    with bound_socket(host, port, shares_port=True):
        yield port


def _worker_settings(
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
        "frontend_id": f"{settings.frontend_id or socket.gethostname()}-{index}",
    }
    if settings.snapshot_file is not None:
        values["snapshot_file"] = f"{settings.snapshot_file}.{index}"
    prefix = str(settings.model_config.get("env_prefix", ""))
    return {
        **{f"{prefix}{name}".upper(): str(value) for name, value in values.items()},
        VARIABLE: settings.transport,
    }


class _Page:
    """Adds up the pages of all workers."""

    def __init__(self, workers: list[Child]) -> None:
        self._workers = workers

    async def metrics(self, request: Request) -> Response:
        """Answer with the metrics of all workers that answer."""
        texts = [text for _, text in await self._read("/metrics")]
        return Response(merged(texts), headers={"content-type": CONTENT_TYPE_LATEST})

    async def is_ready(self) -> bool:
        """Tell whether every worker that answers takes queries; the kernel picks among those."""
        statuses = {status for status, _ in await self._read("/ready")}
        return statuses == {200}

    async def _read(self, path: str) -> list[tuple[int, str]]:
        endpoints = [worker.bound["metrics"] for worker in self._workers if worker.bound]
        pages = (asyncio.to_thread(_try_to_read, each, path) for each in endpoints)
        return [page for page in await asyncio.gather(*pages) if page is not None]


def _try_to_read(endpoint: str, path: str) -> tuple[int, str] | None:
    try:
        return read_page(endpoint, path)
    except OSError as error:
        # It is being started again; its counters begin anew, which Prometheus knows to read.
        log.info("a worker does not answer", extra={"endpoint": endpoint, "error": str(error)})
        return None
