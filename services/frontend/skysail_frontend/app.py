"""The frontend process: builds its parts, starts them, serves and drains.

    run ─► build ─► start ─► serve ─► drain

With several workers the process runs no parts of its own: see `workers`.
"""

import asyncio
import gc
import logging
import os
import socket
from dataclasses import replace
from typing import Any

from skysail_common.clock import MONOTONIC
from skysail_common.process.lifecycle import BackgroundTasks, stop_event, wait_for_end, watch_parent
from skysail_common.process.ready_line import print_ready_line
from skysail_common.process.sockets import join_host_port, local_endpoint
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.contract import Server, Transport
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
from skysail_frontend.workers import WorkerPool
from skysail_protos.v1 import management_pb2

log = logging.getLogger(__name__)

_GC_THRESHOLD = 20_000


async def run(settings: FrontendSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        FailedPrecondition: an address is in use, or the certificate is not usable.
        SkysailError: a task that the frontend needs has ended.
    """
    certificates = settings.read_certificates()
    if settings.workers > 1:
        await WorkerPool(settings).run()
        return
    frontend = Frontend.build(settings, certificates)
    await frontend.start()
    try:
        await frontend.serve()
    finally:
        await frontend.drain()


class Frontend:
    """The composition root of one frontend process."""

    @classmethod
    def build(
        cls, settings: FrontendSettings, certificates: ServerCertificates | None
    ) -> "Frontend":
        """Return a frontend with all of its parts, before they listen or run."""
        stop = stop_event()
        max_bytes = settings.max_message_mib * MIB
        transport = open_transport(settings.transport, max_bytes, settings.max_connection_age_s)
        dispatcher = Dispatcher(
            MONOTONIC,
            transport,
            settings.max_queue_size,
            settings.default_timeout_s,
            PredictionCache(settings.cache_mib * MIB),
            settings.max_queue_mib * MIB,
        )
        follower = RoutingFollower(
            dispatcher, transport.connect, settings.snapshot_file, settings.report_every_s
        )
        return cls(settings, certificates, stop, transport, dispatcher, follower)

    def __init__(
        self,
        settings: FrontendSettings,
        certificates: ServerCertificates | None,
        stop: asyncio.Event,
        transport: Transport,
        dispatcher: Dispatcher,
        follower: RoutingFollower,
    ) -> None:
        """Builds the servers around the core.

        Args:
            settings: The settings of the process.
            certificates: Certificates of the gRPC and HTTP servers; None to serve without TLS.
            stop: Ends `serve`.
            transport: Carries gRPC and calls the core back.
            dispatcher: The core.
            follower: Applies the routes of management to the core.
        """
        self._settings = settings
        self._certificates = certificates
        self._stop = stop
        self._transport = transport
        self._dispatcher = dispatcher
        self._follower = follower
        self._tasks = BackgroundTasks(on_failure=lambda _: stop.set())
        self._essential: list[asyncio.Task[Any]] = []
        self._max_bytes = settings.max_message_mib * MIB
        self._query_ids = grpc_query.QueryIds()
        self._probes = Probes(follower.is_ready)
        self._streams = Streams(
            dispatcher, settings.max_stream_queries, settings.max_connection_age_s
        )
        self._memory = HttpMemory(
            max(settings.http_max_memory_mib, 4 * settings.max_message_mib) * MIB
        )
        self._page = MetricsPage(dispatcher, transport.counters)
        self._grpc_server = self._build_grpc_server()
        self._http_server = self._build_http_server()
        self._metrics_server = self._build_metrics_server()

    def _build_grpc_server(self) -> Server:
        settings = self._settings
        inference = grpc_inference.GrpcInference(
            self._dispatcher,
            settings.server_name,
            self._is_ready,
            self._streams,
            self._max_bytes,
            has_triton_errors=settings.has_triton_errors,
        )
        queries = grpc_query.GrpcQuery(
            self._dispatcher, self._query_ids, self._streams, self._max_bytes
        )
        return self._transport.server(
            [grpc_inference.SERVICE, grpc_query.SERVICE],
            {**inference.unary, **queries.unary},
            {**inference.streams, **queries.streams},
            late={**inference.late, **queries.late},
            shares_port=settings.shares_ports,
            certificates=self._certificates,
        )

    def _build_http_server(self) -> HttpServer:
        settings = self._settings
        rest_v2 = RestV2(
            self._dispatcher,
            settings.server_name,
            self._max_bytes,
            self._is_ready,
            self._memory,
            has_triton_errors=settings.has_triton_errors,
        )
        rest_clipper = RestClipper(self._dispatcher, self._query_ids, self._max_bytes, self._memory)
        return HttpServer(
            http_app([*rest_v2.routes(), *rest_clipper.routes()], settings.allowed_hosts()),
            settings.drain_timeout_s,
            limits=settings.http_limits(),
            memory=self._memory,
            shares_port=settings.shares_ports,
            certificates=self._certificates,
        )

    def _build_metrics_server(self) -> HttpServer:
        settings = self._settings
        return HttpServer(
            http_app([*self._page.routes(), *self._probes.routes()], settings.allowed_hosts()),
            settings.drain_timeout_s,
            limits=replace(settings.http_limits(), drain_idle_s=0.0),
            memory=self._memory,
        )

    def _is_ready(self) -> bool:
        return self._follower.has_routes.is_set() and not self._probes.is_draining

    async def start(self) -> None:
        """Bind the ports, start the tasks and print the ready line.

        Raises:
            FailedPrecondition: an address is in use.
        """
        if self._settings.watch_parent:
            self._tasks.start(
                watch_parent(self._stop.set, self._settings.serve_on_s), "watch parent"
            )
        bound = self._bind()
        self._follower.load_snapshot()
        await self._grpc_server.start()
        self._start_tasks(bound)
        # The parts live as long as the process and queries leave no cycles, so that frequent
        # garbage collections would find nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        print_ready_line("frontend", self._settings.log_format, **bound)

    def _bind(self) -> dict[str, str]:
        """Take the ports and return the endpoint of each server, by its name in the ready line."""
        settings, host = self._settings, self._settings.host
        grpc_port = self._grpc_server.bind(join_host_port(host, settings.grpc_port))
        http_port = self._http_server.bind(host, settings.http_port)
        metrics_port = self._metrics_server.bind(host, settings.metrics_port)
        return {
            "grpc": join_host_port(host, grpc_port),
            "http": join_host_port(host, http_port),
            "metrics": join_host_port(host, metrics_port),
        }

    def _start_tasks(self, bound: dict[str, str]) -> None:
        """Start the tasks; `serve` ends with any of the essential ones."""
        tasks, settings = self._tasks, self._settings
        self._following = tasks.start(
            self._follower.follow(
                settings.management_endpoint,
                self._introduction(bound),
                settings.management_access,
            ),
            "follow management",
        )
        self._serving_http = tasks.start(self._http_server.serve(), "serve HTTP")
        self._serving_metrics = tasks.start(self._metrics_server.serve(), "serve metrics")
        watching_lag = tasks.start(self._page.watch_lag(), "watch event loop")
        self._essential = [
            self._following,
            self._serving_http,
            self._serving_metrics,
            watching_lag,
        ]
        if self._certificates is not None:
            watching = self._certificates.watch(settings.tls_check_every_s)
            self._essential.append(tasks.start(watching, "watch certificates"))
        tasks.start(self._announce_readiness(), "announce readiness")

    def _introduction(self, bound: dict[str, str]) -> management_pb2.WatchRoutingRequest:
        """Return the message that tells management which frontend this is."""
        settings = self._settings
        return management_pb2.WatchRoutingRequest(
            frontend_id=settings.frontend_id or f"{socket.gethostname()}-{os.getpid()}",
            # A client cannot dial a wildcard address, and no certificate names one.
            grpc_endpoint=settings.advertised_grpc_endpoint or local_endpoint(bound["grpc"]),
            http_endpoint=settings.advertised_http_endpoint or local_endpoint(bound["http"]),
            transport=self._transport.name,
        )

    async def _announce_readiness(self) -> None:
        await self._follower.has_routes.wait()
        await self._grpc_server.set_serving(True)

    async def serve(self) -> None:
        """Wait for SIGTERM or SIGINT.

        Raises:
            SkysailError: an essential task ended before.
        """
        await wait_for_end(self._stop, self._essential)

    async def drain(self) -> None:
        """Refuse new queries, answer those in flight, and close every connection."""
        timeout_s = self._settings.drain_timeout_s
        log.info("frontend draining", extra={"queries": self._dispatcher.num_unsettled})
        self._probes.drain()
        await self._grpc_server.set_serving(False)
        self._http_server.stop()
        self._streams.drain()
        # The server refuses new calls and lets those in flight end.
        await self._grpc_server.stop(timeout_s)
        await asyncio.wait({self._serving_http}, timeout=timeout_s + 1)
        # Routes apply until the last answer. After that, management must not wait for this
        # frontend to acknowledge more of them.
        self._following.cancel()
        self._metrics_server.stop()
        await asyncio.wait({self._serving_metrics}, timeout=1)
        await self._follower.stop()
        await self._tasks.stop()
        self._transport.close()
