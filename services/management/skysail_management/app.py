"""Builds the management service and wires it: the composition root."""

import asyncio
import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skysail_common.clock import MONOTONIC
from skysail_common.errors import FailedPrecondition
from skysail_common.identifiers import check_name
from skysail_common.lifecycle import BackgroundTasks, stop_event, watch_parent
from skysail_common.rpc.serving import GrpcServer, print_ready_line
from skysail_common.store import Store
from skysail_management.artifact_servicer import MAX_MESSAGE_BYTES, ArtifactServicer
from skysail_management.artifacts import ArtifactStore
from skysail_management.containers.base import ContainerManager
from skysail_management.containers.registry import find_container_manager
from skysail_management.events import DeployEvents
from skysail_management.operations.applications import Applications
from skysail_management.operations.deployments import DeploymentDefaults, Deployments
from skysail_management.operations.models import Models
from skysail_management.profiles import Profiles
from skysail_management.reconciler.reconciler import Reconciler, stop_all
from skysail_management.reconciler.specs import ReconcilerOptions
from skysail_management.records import Records
from skysail_management.routing import Routing
from skysail_management.servicer import ManagementServicer
from skysail_management.settings import ManagementSettings
from skysail_protos.v1 import management_pb2_grpc

log = logging.getLogger(__name__)

_SERVICE = "skysail.v1.ManagementService"
_STOP_GRACE_S = 2.0


async def run(settings: ManagementSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        FailedPrecondition: the data directory or the address is in use.
        StoreUnavailable: the store does not answer.
        ContainerManagerUnavailable: the container manager does not answer.
    """
    check_name("cluster", settings.cluster)
    with _locked(settings.data_dir):
        note = settings.data_dir / "container-manager"
        if settings.stop_replicas_only:
            # Whoever stops them need not know what they run as.
            name = note.read_text() if note.exists() else settings.container_manager
            manager = find_container_manager(name)(settings)
            await manager.open()
            await stop_all(manager, settings.drain_timeout_s)
            await manager.close()
            return
        manager = find_container_manager(settings.container_manager)(settings)
        note.write_text(settings.container_manager)
        store = Store(settings.redis_url.get_secret_value(), settings.cluster)
        try:
            await store.open()
            await _serve(settings, store, manager)
        finally:
            await store.close()


async def _serve(settings: ManagementSettings, store: Store, manager: ContainerManager) -> None:
    stop = stop_event()
    is_orphan = False

    def parent_is_gone() -> None:
        nonlocal is_orphan
        is_orphan = True
        stop.set()

    tasks = BackgroundTasks()
    if settings.watch_parent:
        tasks.start(watch_parent(parent_is_gone), "watch parent")
    records = Records(store)
    await records.load()
    secret = await store.secret()
    artifacts = ArtifactStore(
        settings.data_dir / "artifacts", settings.max_artifact_bytes, MONOTONIC
    )
    events = DeployEvents()
    routing = Routing(records)
    server = GrpcServer([_SERVICE])
    port = server.bind(f"{settings.host}:{settings.port}")
    bound = {"grpc": f"{settings.host}:{port}"}
    artifact_server = None
    if settings.artifact_port is not None:
        artifact_server = GrpcServer([_SERVICE], max_message_bytes=MAX_MESSAGE_BYTES)
        port = artifact_server.bind(f"{settings.host}:{settings.artifact_port}")
        bound["artifacts"] = f"{settings.host}:{port}"
    options = ReconcilerOptions(
        management_endpoint=settings.advertised_endpoint or bound.get("artifacts", bound["grpc"]),
        secret=secret,
        prepare_timeout_s=settings.prepare_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
    )
    reconciler = Reconciler(records, manager, artifacts, events, routing, options, MONOTONIC)
    models = Models(records, artifacts, reconciler)
    defaults = DeploymentDefaults(
        settings.default_max_batch_size,
        settings.default_start_timeout_s,
        settings.prepare_timeout_s,
    )
    deployments = Deployments(records, models, reconciler, manager, events, defaults)
    downloads = ArtifactServicer(secret, models, artifacts)
    servicer = ManagementServicer(
        cluster=settings.cluster,
        container_manager=manager.name,
        store=store,
        records=records,
        artifacts=artifacts,
        # With a port for it, what a replica knows is good for that port alone.
        downloads=None if artifact_server else downloads,
        applications=Applications(records, reconciler),
        models=models,
        deployments=deployments,
        profiles=Profiles(records),
        reconciler=reconciler,
        routing=routing,
        default_max_batch_size=settings.default_max_batch_size,
    )
    management_pb2_grpc.add_ManagementServiceServicer_to_server(servicer, server.grpc)
    servers = [server]
    if artifact_server is not None:
        downloads.add_alone_to(artifact_server)
        servers.append(artifact_server)
    # Before the first frontend asks, so that it is never told less than what runs.
    await reconciler.start()
    tasks.start(records.keep_fresh(reconciler.all_changed), "keep records fresh")
    for each in servers:
        await each.start()
        await each.set_serving(True)
    print_ready_line("management", **bound)
    try:
        await stop.wait()
    finally:
        await tasks.stop()
        routing.stop()
        await asyncio.gather(*(each.stop(_STOP_GRACE_S) for each in servers))
        # Nobody would start a management that takes the replicas of an orphan over.
        if settings.stop_replicas_on_exit or is_orphan:
            await reconciler.stop_all_containers()
        else:
            await reconciler.stop()


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / "management.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPrecondition(
                f"data directory {data_dir} is in use by another management"
            ) from None
        yield
