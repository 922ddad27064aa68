"""Builds the frontend and wires it: the composition root."""

import asyncio
import logging
import os
import socket

from skysail_common.clock import MONOTONIC
from skysail_common.lifecycle import BackgroundTasks, stop_event, watch_parent
from skysail_common.rpc import grpc_transport
from skysail_common.rpc.serving import GrpcServer, print_ready_line
from skysail_frontend.directory import Directory
from skysail_frontend.dispatch import Dispatcher
from skysail_frontend.ingress import grpc_inference, grpc_query
from skysail_frontend.ingress.http_server import HttpServer, http_app
from skysail_frontend.ingress.rest_clipper import RestClipper
from skysail_frontend.ingress.rest_v2 import RestV2
from skysail_frontend.metrics import MetricsPage
from skysail_frontend.prediction_cache import PredictionCache
from skysail_frontend.settings import FrontendSettings
from skysail_protos.v1 import management_pb2

log = logging.getLogger(__name__)

_DRAIN_CHECK_S = 0.02
_GRPC_GRACE_S = 1.0


async def run(settings: FrontendSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        FailedPrecondition: an address is in use.
    """
    stop = stop_event()
    tasks = BackgroundTasks(on_failure=lambda _: stop.set())
    if settings.watch_parent:
        tasks.start(watch_parent(stop.set), "watch parent")
    dispatcher = Dispatcher(
        MONOTONIC,
        asyncio.get_running_loop(),
        settings.max_queue_size,
        settings.default_timeout_s,
        PredictionCache(settings.cache_mib * 1024 * 1024),
    )
    directory = Directory(dispatcher, grpc_transport.connect, settings.snapshot_file)
    ids = grpc_query.QueryIds()
    is_ready = directory.has_routes.is_set
    inference = grpc_inference.GrpcInference(dispatcher, settings.server_name, is_ready)
    queries = grpc_query.GrpcQuery(dispatcher, ids, settings.max_stream_queries)
    max_bytes = settings.max_message_mib * 1024 * 1024
    server = GrpcServer(
        [grpc_inference.SERVICE, grpc_query.SERVICE],
        max_message_bytes=max_bytes,
        generic_handlers=[
            grpc_transport.GrpcHandlers({**inference.unary, **queries.unary}, queries.streams)
        ],
    )
    rest_v2 = RestV2(dispatcher, settings.server_name, max_bytes, is_ready)
    rest_clipper = RestClipper(dispatcher, ids, max_bytes)
    http = HttpServer(
        http_app([*rest_v2.routes(), *rest_clipper.routes()]), settings.drain_timeout_s
    )
    page = MetricsPage(dispatcher)
    metrics = HttpServer(http_app(page.routes()), settings.drain_timeout_s)
    grpc_endpoint = f"{settings.host}:{server.bind(f'{settings.host}:{settings.grpc_port}')}"
    http_endpoint = f"{settings.host}:{http.bind(settings.host, settings.http_port)}"
    metrics_port = metrics.bind(settings.host, settings.metrics_port)
    metrics_endpoint = f"{settings.host}:{metrics_port}"
    introduction = management_pb2.WatchRoutingRequest(
        frontend_id=settings.frontend_id or f"{socket.gethostname()}-{os.getpid()}",
        grpc_endpoint=grpc_endpoint,
        http_endpoint=http_endpoint,
    )
    directory.load()
    await server.start()
    following = tasks.start(
        directory.follow(settings.management_endpoint, introduction), "follow management"
    )
    serving = tasks.start(http.serve(), "serve HTTP")
    serving_metrics = tasks.start(metrics.serve(), "serve metrics")
    tasks.start(page.watch_lag(), "watch event loop")
    tasks.start(_announce(directory, server), "announce readiness")
    print_ready_line("frontend", grpc=grpc_endpoint, http=http_endpoint, metrics=metrics_endpoint)
    try:
        await stop.wait()
    finally:
        log.info("draining", extra={"queries": dispatcher.num_unsettled})
        await server.set_serving(False)
        # Management must not wait for an answer of ours any more.
        following.cancel()
        http.stop()
        await _drained(dispatcher, settings.drain_timeout_s)
        await server.stop(_GRPC_GRACE_S)
        metrics.stop()
        await asyncio.wait({serving, serving_metrics}, timeout=settings.drain_timeout_s + 1)
        await directory.stop()
        await tasks.stop()


async def _announce(directory: Directory, server: GrpcServer) -> None:
    await directory.has_routes.wait()
    await server.set_serving(True)


async def _drained(dispatcher: Dispatcher, timeout_s: float) -> None:
    """Return once every query is answered, or after `timeout_s`."""
    end = MONOTONIC() + timeout_s
    # Once, at the end of the process; not worth an event in the core.
    while dispatcher.num_unsettled and MONOTONIC() < end:  # noqa: ASYNC110
        await asyncio.sleep(_DRAIN_CHECK_S)
