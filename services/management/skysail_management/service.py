"""The service of a management that owns its store.

build ──► start ──► serve, until the shutdown ──► drain
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from skysail_common.clock import MONOTONIC
from skysail_common.process.data_dir import management_socket
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_common.process.ready_line import print_ready_line
from skysail_common.process.sockets import join_host_port
from skysail_common.rpc.grpc_server import GrpcServer
from skysail_common.rpc.health_check import STORE
from skysail_common.store import Store
from skysail_management.admin_server import AdminServer
from skysail_management.artifact_servicer import MAX_MESSAGE_BYTES, SERVICE, ArtifactServicer
from skysail_management.artifacts.store import ARTIFACTS, ArtifactStore
from skysail_management.autoscaler import Autoscaler
from skysail_management.catalog.rules import Rules
from skysail_management.containers.base import ContainerManager
from skysail_management.events import DeployEvents
from skysail_management.operations.applications import Applications
from skysail_management.operations.deployments import DeploymentDefaults, Deployments
from skysail_management.operations.models import Models
from skysail_management.ownership.keeper import StoreKeeper
from skysail_management.ownership.store_checkpoint import CheckpointFile
from skysail_management.profiles import Profiles
from skysail_management.reconciler.autoscaling import AutoscalingOptions
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.reconciler.specs import ReconcilerOptions
from skysail_management.records import Records
from skysail_management.request_limits import check_request
from skysail_management.routing import Routing
from skysail_management.servicer import ManagementServicer
from skysail_management.settings import ManagementSettings
from skysail_management.shutdown import Shutdown

if TYPE_CHECKING:
    from skysail_management.leadership.leader_label import LeaderLabel

_STOP_GRACE_S = 2.0
_MAX_REPORT_AGE = 5.0
"""Age of a load report, in report intervals, after which the autoscaler ignores it."""


class ManagementService:
    """Serves operators, frontends and replicas, and reconciles deployments."""

    @classmethod
    async def build(
        cls,
        settings: ManagementSettings,
        shutdown: Shutdown,
        server: AdminServer,
        tasks: BackgroundTasks,
        store: Store,
        checkpoint: CheckpointFile,
        manager: ContainerManager,
    ) -> "ManagementService":
        """Read the records, bind the addresses, and wire the parts.

        Args:
            settings: The settings.
            shutdown: Ends `serve`.
            server: Serves operators and frontends; it may listen already.
            tasks: Group of the tasks of this service, which `drain` stops.
            store: The store, owned by this management.
            checkpoint: Where the keeper notes the state of the store.
            manager: The container manager, not open.

        Raises:
            FailedPrecondition: an address is in use.
            StoreUnavailable: the store does not answer.
        """
        records = Records(store)
        await records.load()
        secret = await store.secret()
        keeper = StoreKeeper(
            store, checkpoint, records.mark_stale, partial(server.set_health, STORE)
        )
        return cls(settings, shutdown, server, tasks, records, keeper, manager, secret)

    def __init__(
        self,
        settings: ManagementSettings,
        shutdown: Shutdown,
        server: AdminServer,
        tasks: BackgroundTasks,
        records: Records,
        keeper: StoreKeeper,
        manager: ContainerManager,
        secret: str,
    ) -> None:
        """Bind the addresses and wire the parts; called by `build`."""
        self._settings = settings
        self._shutdown = shutdown
        self._server = server
        self._tasks = tasks
        self._records = records
        self._keeper = keeper
        self._manager = manager
        self._artifacts = ArtifactStore(
            settings.data_dir / ARTIFACTS, settings.max_artifact_bytes, MONOTONIC
        )
        self._events = DeployEvents()
        self._routing = Routing(records)
        self._artifact_server: GrpcServer | None = None
        self._addresses = self._bind()
        self._reconciler = Reconciler(
            records,
            manager,
            self._artifacts,
            self._events,
            self._routing,
            self._reconciler_options(secret),
            MONOTONIC,
            tasks,
        )
        records.check = Rules(records, self._reconciler.num_ready).check
        self._models = Models(records, self._artifacts, self._reconciler)
        self._downloads = ArtifactServicer(secret, self._models, self._artifacts)
        self._servicer = self._make_servicer()
        if self._artifact_server is not None:
            self._downloads.add_alone_to(self._artifact_server)

    def _bind(self) -> dict[str, str]:
        """Bind every address, and return the addresses of the ready line."""
        settings = self._settings
        bound = {"grpc": self._server.listen(settings.host, settings.port)}
        if settings.artifact_port is not None:
            self._artifact_server = GrpcServer(
                [SERVICE], max_message_bytes=MAX_MESSAGE_BYTES, check_request=check_request
            )
            address = join_host_port(settings.host, settings.artifact_port)
            port = self._artifact_server.bind(address)
            bound["artifacts"] = join_host_port(settings.host, port)
        # Standbys share the directory of the socket, so that only a management without a lease has
        # it.
        if settings.tls_certificate_file is not None and not settings.kubernetes_lease:
            bound["socket"] = management_socket(settings.data_dir)
            self._server.bind(bound["socket"])
        return bound

    def _reconciler_options(self, secret: str) -> ReconcilerOptions:
        settings, bound = self._settings, self._addresses
        here = bound.get("artifacts") or bound.get("socket") or bound["grpc"]
        return ReconcilerOptions(
            management_endpoint=settings.advertised_endpoint or here,
            secret=secret,
            prepare_timeout_s=settings.prepare_timeout_s,
            drain_timeout_s=settings.drain_timeout_s,
            stuck_after_s=settings.stuck_after_s,
            check_health_s=settings.check_health_s,
            warm_up_s=settings.warm_up_s,
            log_format=settings.log_format,
            max_concurrent_starts=settings.max_concurrent_starts,
        )

    def _make_servicer(self) -> ManagementServicer:
        settings = self._settings
        return ManagementServicer(
            cluster=settings.cluster,
            container_manager=self._manager.name,
            keeper=self._keeper,
            records=self._records,
            artifacts=self._artifacts,
            # A separate artifact port is the only one where the tokens of replicas are valid.
            downloads=None if self._artifact_server else self._downloads,
            applications=Applications(self._records, self._reconciler),
            models=self._models,
            deployments=self._make_deployments(),
            profiles=Profiles(self._records),
            autoscaler=self._make_autoscaler(),
            reconciler=self._reconciler,
            routing=self._routing,
            default_max_batch_size=settings.default_max_batch_size,
            load_report_interval_s=settings.autoscaling_interval_s,
        )

    def _make_deployments(self) -> Deployments:
        defaults = DeploymentDefaults(
            self._settings.default_max_batch_size,
            self._settings.default_start_timeout_s,
            self._settings.prepare_timeout_s,
            self._settings.default_warm_up,
        )
        return Deployments(
            self._records, self._models, self._reconciler, self._manager, self._events, defaults
        )

    def _make_autoscaler(self) -> Autoscaler:
        options = AutoscalingOptions(
            self._settings.autoscaling_target,
            self._settings.autoscaling_shrink_after_s,
            _MAX_REPORT_AGE * self._settings.autoscaling_interval_s,
        )
        return Autoscaler(self._records, self._reconciler, options, MONOTONIC)

    async def run(self, label: "LeaderLabel | None" = None) -> None:
        """Start, serve until the shutdown, and drain.

        Args:
            label: Marks the pod of the leader; None without a lease.

        Raises:
            ContainerManagerUnavailable: the container manager does not answer.
            SkysailError: a replica cannot be stopped.
        """
        await self.start(label)
        try:
            await self.serve()
        finally:
            await self.drain(label)

    @property
    def _servers(self) -> list[GrpcServer]:
        return [self._server, *([self._artifact_server] if self._artifact_server else [])]

    async def start(self, label: "LeaderLabel | None") -> None:
        """Adopt the running replicas, start the tasks and servers, and print the ready line.

        Args:
            label: Marks the pod of the leader; None without a lease.

        Raises:
            ContainerManagerUnavailable: the container manager does not answer.
        """
        # The reconciler starts first, so that no frontend receives fewer replicas than run.
        await self._reconciler.start()
        freshness = self._records.keep_fresh(self._reconciler.wake_all)
        self._tasks.start_essential(self._shutdown.guard(freshness), "keep records fresh")
        self._tasks.start_essential(self._shutdown.guard(self._keeper.keep()), "keep the store")
        self._server.serve(self._servicer)
        for server in self._servers:
            await server.start()
            await server.set_serving(True)
        await self._server.set_ready()
        if label is not None:
            self._tasks.start_essential(label.keep(), "leader label")
        print_ready_line("management", self._settings.log_format, **self._addresses)

    async def serve(self) -> None:
        """Return when the shutdown begins."""
        await self._shutdown.event.wait()

    async def drain(self, label: "LeaderLabel | None") -> None:
        """Stop the tasks and servers, then stop the replicas or leave them to the next management.

        Raises:
            SkysailError: a replica cannot be stopped.
        """
        await self._tasks.stop()
        if label is not None:
            await label.remove()
        self._routing.stop()
        await asyncio.gather(*(server.stop(_STOP_GRACE_S) for server in self._servers))
        shutdown = self._shutdown
        # An orphan stops its replicas, because nobody would start a management that adopts them.
        stops_replicas = self._settings.stop_replicas_on_exit or shutdown.is_orphan
        if shutdown.failure is None and stops_replicas:
            await self._reconciler.stop_all_containers()
        else:
            await self._reconciler.stop()
