"""Builds the frontend and wires it: the composition root."""

import asyncio
import gc
import logging
import os
import socket
from dataclasses import replace

from skysail_common.clock import MONOTONIC
from skysail_common.process.lifecycle import BackgroundTasks, stop_event, wait_for_end, watch_parent
from skysail_common.process.ready_line import print_ready_line
from skysail_common.process.sockets import join_host_port, local_endpoint
from skysail_common.rpc.contract import Server
from skysail_common.rpc.transports import open_transport
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.prediction_cache import PredictionCache
from skysail_frontend.ingress import grpc_inference, grpc_query
from skysail_frontend.ingress.http_limits import MIB, HttpMemory
from skysail_frontend.ingress.http_server import HttpServer, http_app
from skysail_frontend.ingress.rest_clipper import RestClipper
from skysail_frontend.ingress.rest_v2 import RestV2
from skysail_frontend.ingress.stream_session import Streams
from skysail_frontend.monitoring.metrics import MetricsPage
from skysail_frontend.monitoring.probes import Probes
from skysail_frontend.settings import FrontendSettings
from skysail_frontend.upstream.routing_follower import RoutingFollower
from skysail_frontend.workers import run_workers
from skysail_protos.v1 import management_pb2

log = logging.getLogger(__name__)

_GC_THRESHOLD = 20_000


async def run(settings: FrontendSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        FailedPrecondition: an address is in use, or the certificate is of no use.
        SkysailError: a task that the frontend needs has ended.
    """
    certificates = settings.read_certificates()
    if settings.workers > 1:
        await run_workers(settings)
        return
    stop = stop_event()
    tasks = BackgroundTasks(on_failure=lambda _: stop.set())
    if settings.watch_parent:
        tasks.start(watch_parent(stop.set, settings.serve_on_s), "watch parent")
    max_bytes = settings.max_message_mib * 1024 * 1024
    transport = open_transport(settings.transport, max_bytes, settings.max_connection_age_s)
    dispatcher = Dispatcher(
        MONOTONIC,
        transport,
        settings.max_queue_size,
        settings.default_timeout_s,
        PredictionCache(settings.cache_mib * 1024 * 1024),
        settings.max_queue_mib * 1024 * 1024,
    )
    follower = RoutingFollower(
        dispatcher, transport.connect, settings.snapshot_file, settings.report_every_s
    )
    ids = grpc_query.QueryIds()
    probes = Probes(follower.is_ready)

    def is_ready() -> bool:
        return follower.has_routes.is_set() and not probes.is_draining

    streams = Streams(dispatcher, settings.max_stream_queries, settings.max_connection_age_s)
    inference = grpc_inference.GrpcInference(
        dispatcher,
        settings.server_name,
        is_ready,
        streams,
        max_bytes,
        has_triton_errors=settings.has_triton_errors,
    )
    queries = grpc_query.GrpcQuery(dispatcher, ids, streams, max_bytes)
    server = transport.server(
        [grpc_inference.SERVICE, grpc_query.SERVICE],
        {**inference.unary, **queries.unary},
        {**inference.streams, **queries.streams},
        late={**inference.late, **queries.late},
        shares_port=settings.shares_ports,
        certificates=certificates,
    )
    memory = HttpMemory(max(settings.http_max_memory_mib, 4 * settings.max_message_mib) * MIB)
    rest_v2 = RestV2(
        dispatcher,
        settings.server_name,
        max_bytes,
        is_ready,
        memory,
        has_triton_errors=settings.has_triton_errors,
    )
    rest_clipper = RestClipper(dispatcher, ids, max_bytes, memory)
    limits, hosts = settings.http_limits(), settings.allowed_hosts()
    http = HttpServer(
        http_app([*rest_v2.routes(), *rest_clipper.routes()], hosts),
        settings.drain_timeout_s,
        limits=limits,
        memory=memory,
        shares_port=settings.shares_ports,
        certificates=certificates,
    )
    page = MetricsPage(dispatcher, transport.counters)
    metrics = HttpServer(
        http_app([*page.routes(), *probes.routes()], hosts),
        settings.drain_timeout_s,
        limits=replace(limits, drain_idle_s=0.0),
        memory=memory,
    )
    host = settings.host
    grpc_endpoint = join_host_port(host, server.bind(join_host_port(host, settings.grpc_port)))
    http_endpoint = join_host_port(host, http.bind(host, settings.http_port))
    metrics_endpoint = join_host_port(host, metrics.bind(host, settings.metrics_port))
    introduction = management_pb2.WatchRoutingRequest(
        frontend_id=settings.frontend_id or f"{socket.gethostname()}-{os.getpid()}",
        # Nobody can dial a wildcard address, and no certificate names one.
        grpc_endpoint=settings.advertised_grpc_endpoint or local_endpoint(grpc_endpoint),
        http_endpoint=settings.advertised_http_endpoint or local_endpoint(http_endpoint),
        transport=transport.name,
    )
    follower.load_snapshot()
    await server.start()
    following = tasks.start(
        follower.follow(settings.management_endpoint, introduction, settings.management_access),
        "follow management",
    )
    serving = tasks.start(http.serve(), "serve HTTP")
    serving_metrics = tasks.start(metrics.serve(), "serve metrics")
    essential = [
        following,
        serving,
        serving_metrics,
        tasks.start(page.watch_lag(), "watch event loop"),
    ]
    if certificates is not None:
        watching = certificates.watch(settings.tls_check_every_s)
        essential.append(tasks.start(watching, "watch certificates"))
    tasks.start(_announce(follower, server), "announce readiness")
    # What is here stays, and queries leave no cycles: the collector need not look often.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    print_ready_line(
        "frontend",
        settings.log_format,
        grpc=grpc_endpoint,
        http=http_endpoint,
        metrics=metrics_endpoint,
    )
    try:
        await wait_for_end(stop, essential)
    finally:
        log.info("draining", extra={"queries": dispatcher.num_unsettled})
        probes.drain()
        await server.set_serving(False)
        http.stop()
        streams.drain()
        # Takes no call any more and lets those under way be answered.
        await server.stop(settings.drain_timeout_s)
        await asyncio.wait({serving}, timeout=settings.drain_timeout_s + 1)
        # Routes hold until the last answer; then management must not wait for ours.
        following.cancel()
        metrics.stop()
        await asyncio.wait({serving_metrics}, timeout=1)
        await follower.stop()
        await tasks.stop()
        transport.close()


async def _announce(follower: RoutingFollower, server: Server) -> None:
    await follower.has_routes.wait()
    await server.set_serving(True)
