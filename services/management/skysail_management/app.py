"""Builds the management service and wires it: the composition root."""

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from skysail_common.clock import MONOTONIC
from skysail_common.errors import FailedPrecondition, SkysailError, StoreTaken
from skysail_common.extras import require_extra
from skysail_common.identifiers import check_name
from skysail_common.process.data_dir import cannot_use, management_socket, private_directory
from skysail_common.process.lifecycle import BackgroundTasks, stop_event, watch_parent
from skysail_common.process.ready_line import print_ready_line
from skysail_common.process.sockets import check_management_host, join_host_port
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.grpc_server import GrpcServer
from skysail_common.rpc.health_check import STORE
from skysail_common.rpc.management_access import read_token
from skysail_common.store import Store
from skysail_management.admin_server import SERVICE, AdminServer
from skysail_management.artifact_servicer import MAX_MESSAGE_BYTES, ArtifactServicer
from skysail_management.artifacts import ARTIFACTS, ArtifactStore, count_artifacts
from skysail_management.autoscaler import Autoscaler
from skysail_management.catalog.rules import Rules
from skysail_management.containers.base import ContainerManager
from skysail_management.containers.discovery import find_container_manager
from skysail_management.events import DeployEvents
from skysail_management.operations.applications import Applications
from skysail_management.operations.deployments import DeploymentDefaults, Deployments
from skysail_management.operations.models import Models
from skysail_management.ownership.acquisition import Leftovers, StoreAcquisition
from skysail_management.ownership.keeper import StoreKeeper
from skysail_management.ownership.owner_identity import LOCK_FILE, owner_identity
from skysail_management.ownership.standby import Standby
from skysail_management.ownership.store_checkpoint import CheckpointFile
from skysail_management.profiles import Profiles
from skysail_management.reconciler.autoscaling import AutoscalingOptions
from skysail_management.reconciler.reconciler import Reconciler, stop_all
from skysail_management.reconciler.specs import ReconcilerOptions
from skysail_management.records import Records
from skysail_management.request_limits import check_request
from skysail_management.routing import Routing
from skysail_management.servicer import ManagementServicer
from skysail_management.settings import ManagementSettings

if TYPE_CHECKING:
    from skysail_management.leadership.leader_term import LeaderTerm

    _Leading = AbstractAsyncContextManager[LeaderTerm | None]

log = logging.getLogger(__name__)

_NOTE = "container-manager"
_STOP_GRACE_S = 2.0
_HANDOVER_S = 30.0
_LOCK_RETRY_S = 0.1
_MAX_REPORT_AGE = 5.0
"""Intervals after which a report of a load says nothing any more."""


class _Ending:
    """When management ends, and why."""

    def __init__(self) -> None:
        self.event = stop_event()
        self.is_orphan = False
        self.failure: BaseException | None = None

    def parent_is_gone(self) -> None:
        self.is_orphan = True
        self.event.set()

    def failed(self, error: BaseException) -> None:
        """End, because a part that is needed has ended; replicas go on for the next management."""
        self.failure = self.failure or error
        self.event.set()

    async def at_failure_of(self, work: Awaitable[None]) -> None:
        """Do some work; end this management if it raises what operators must know."""
        try:
            await work
        except SkysailError as error:
            log.error("management ends", extra={"error": error.message})
            self.failed(error)
            # The error is logged: an end of the task would be logged as another one.
            await asyncio.Event().wait()


async def run(settings: ManagementSettings) -> None:
    """Serve until SIGTERM or SIGINT; with a lease, only while this management holds it.

    Raises:
        FailedPrecondition: the data directory or the address is in use.
        StoreUnavailable: the store does not answer within its time.
        StoreRefused: it does not let management in.
        StoreTaken: another management owns it, or has taken it over.
        StoreLost: it lost data of which artifacts or replicas exist.
        ContainerManagerUnavailable: the container manager does not answer.
        SkysailError: a task that management needs has ended.
    """
    check_name("cluster", settings.cluster)
    if settings.stop_replicas_only:
        await _stop_replicas(settings)
        return
    store = Store(settings.redis_url.get_secret_value(), settings.cluster)
    ending = _Ending()
    tasks = BackgroundTasks(ending.failed)
    if settings.watch_parent:
        tasks.start(watch_parent(ending.parent_is_gone), "watch parent")
    certificates = _guarded_door(settings)
    if certificates is not None:
        tasks.start(certificates.watch(settings.tls_check_every_s), "watch certificates")
    token_file = settings.token_file
    token = read_token(token_file, "SKYSAIL_MANAGEMENT_TOKEN_FILE") if token_file else ""
    server = AdminServer(certificates, token)
    try:
        if settings.kubernetes_lease:
            await _work_in_turn(settings, ending, server, store, tasks)
        else:
            await _work(settings, ending, server, store, tasks)
    finally:
        await tasks.stop()
        await store.close()
    if isinstance(ending.failure, SkysailError):
        raise ending.failure
    if ending.failure is not None:
        raise SkysailError(f"internal error: a needed task ended ({ending.failure!r}); see the log")


def _guarded_door(settings: ManagementSettings) -> ServerCertificates | None:
    """Return the certificates to show.

    Raises:
        FailedPrecondition: they are of no use, or callers off this machine would meet no lock.
    """
    certificates = settings.read_certificates()
    # The port of artifacts is in the clear.
    has_locks = certificates is not None and settings.token_file and settings.artifact_port is None
    check_management_host(settings.host, is_guarded=bool(has_locks), is_insecure=settings.insecure)
    return certificates


async def _work_in_turn(
    settings: ManagementSettings,
    ending: _Ending,
    server: AdminServer,
    store: Store,
    tasks: BackgroundTasks,
) -> None:
    server.listen(settings.host, settings.port)
    await server.start()
    standby = Standby(server, store)
    standing = tasks.group()
    standing.start(ending.at_failure_of(standby.announce()), "announce the standby")
    try:
        async with _leading()(settings, ending.event, tasks, standby.mark_standby) as turn:
            if turn is not None:
                await _work(settings, ending, server, store, tasks, turn)
    finally:
        await standing.stop()
        await server.stop(0)


async def _stop_replicas(settings: ManagementSettings) -> None:
    async with _locked(settings.data_dir):
        note = settings.data_dir / _NOTE
        # The caller need not know the container manager, because a note names it.
        name = note.read_text() if note.exists() else settings.container_manager
        manager = find_container_manager(name)(settings)
        await manager.open()
        try:
            await stop_all(manager, settings.drain_timeout_s)
        finally:
            await manager.close()


def _leading() -> "Callable[..., _Leading]":
    # A lease needs the client of Kubernetes, which may not be installed.
    require_extra("kubernetes")
    from skysail_management.leadership.leader_term import hold_leadership

    return hold_leadership


async def _work(
    settings: ManagementSettings,
    ending: _Ending,
    server: AdminServer,
    store: Store,
    tasks: BackgroundTasks,
    turn: "LeaderTerm | None" = None,
) -> None:
    # The leader before may need a moment to let go.
    async with _locked(settings.data_dir, _HANDOVER_S if turn else 0.0, ending.event):
        manager = find_container_manager(settings.container_manager)(settings)
        (settings.data_dir / _NOTE).write_text(settings.container_manager)
        owner = owner_identity(settings.data_dir, turn.lease_id if turn else "")
        note = CheckpointFile(settings.data_dir, settings.cluster)
        opening = StoreAcquisition(
            store,
            owner,
            note,
            lambda: _leftovers(settings),
            settings.accept_store_loss,
            MONOTONIC,
        )
        if not await opening.open(settings.store_timeout_s, ending.event):
            return
        try:
            await _serve(settings, ending, server, tasks.group(), turn, store, note, manager)
        finally:
            if not isinstance(ending.failure, StoreTaken):
                await opening.close()


async def _leftovers(settings: ManagementSettings) -> Leftovers:
    # Another than the one that serves: what it takes over here is let go of at once.
    manager = find_container_manager(settings.container_manager)(settings)
    await manager.open()
    try:
        replicas = await manager.list()
    finally:
        await manager.close()
    return Leftovers(count_artifacts(settings.data_dir / ARTIFACTS), len(replicas))


async def _serve(
    settings: ManagementSettings,
    ending: _Ending,
    server: AdminServer,
    tasks: BackgroundTasks,
    turn: "LeaderTerm | None",
    store: Store,
    note: CheckpointFile,
    manager: ContainerManager,
) -> None:
    records = Records(store)
    await records.load()
    secret = await store.secret()
    keeper = StoreKeeper(store, note, records.mark_stale, partial(server.set_health, STORE))
    artifacts = ArtifactStore(settings.data_dir / ARTIFACTS, settings.max_artifact_bytes, MONOTONIC)
    events = DeployEvents()
    routing = Routing(records)
    bound = {"grpc": server.listen(settings.host, settings.port)}
    artifact_server = None
    if settings.artifact_port is not None:
        artifact_server = GrpcServer(
            [SERVICE], max_message_bytes=MAX_MESSAGE_BYTES, check_request=check_request
        )
        port = artifact_server.bind(join_host_port(settings.host, settings.artifact_port))
        bound["artifacts"] = join_host_port(settings.host, port)
    # Only the leader may have the socket, because standbys share its directory.
    if settings.tls_certificate_file is not None and not settings.kubernetes_lease:
        bound["socket"] = management_socket(settings.data_dir)
        server.bind(bound["socket"])
    here = bound.get("artifacts") or bound.get("socket") or bound["grpc"]
    options = ReconcilerOptions(
        management_endpoint=settings.advertised_endpoint or here,
        secret=secret,
        prepare_timeout_s=settings.prepare_timeout_s,
        drain_timeout_s=settings.drain_timeout_s,
        stuck_after_s=settings.stuck_after_s,
        warm_up_s=settings.warm_up_s,
        log_format=settings.log_format,
        max_concurrent_starts=settings.max_concurrent_starts,
    )
    reconciler = Reconciler(records, manager, artifacts, events, routing, options, MONOTONIC, tasks)
    records.check = Rules(records, reconciler.num_ready).check
    models = Models(records, artifacts, reconciler)
    defaults = DeploymentDefaults(
        settings.default_max_batch_size,
        settings.default_start_timeout_s,
        settings.prepare_timeout_s,
        settings.default_warm_up,
    )
    deployments = Deployments(records, models, reconciler, manager, events, defaults)
    downloads = ArtifactServicer(secret, models, artifacts)
    servicer = ManagementServicer(
        cluster=settings.cluster,
        container_manager=manager.name,
        keeper=keeper,
        records=records,
        artifacts=artifacts,
        # With a port for it, what a replica knows is good for that port alone.
        downloads=None if artifact_server else downloads,
        applications=Applications(records, reconciler),
        models=models,
        deployments=deployments,
        profiles=Profiles(records),
        autoscaler=Autoscaler(
            records,
            reconciler,
            AutoscalingOptions(
                settings.autoscaling_target,
                settings.autoscaling_shrink_after_s,
                _MAX_REPORT_AGE * settings.autoscaling_interval_s,
            ),
            MONOTONIC,
        ),
        reconciler=reconciler,
        routing=routing,
        default_max_batch_size=settings.default_max_batch_size,
        load_report_interval_s=settings.autoscaling_interval_s,
    )
    servers: list[GrpcServer] = [server]
    if artifact_server is not None:
        downloads.add_alone_to(artifact_server)
        servers.append(artifact_server)
    # Before the first frontend asks, so that it is never told less than what runs.
    await reconciler.start()
    freshness = records.keep_fresh(reconciler.wake_all)
    tasks.start_essential(ending.at_failure_of(freshness), "keep records fresh")
    tasks.start_essential(ending.at_failure_of(keeper.keep()), "keep the store")
    server.serve(servicer)
    for each in servers:
        await each.start()
        await each.set_serving(True)
    await server.set_ready()
    if turn is not None:
        tasks.start_essential(turn.label.keep(), "leader label")
    print_ready_line("management", settings.log_format, **bound)
    try:
        await ending.event.wait()
    finally:
        await tasks.stop()
        if turn is not None:
            await turn.label.remove()
        routing.stop()
        await asyncio.gather(*(each.stop(_STOP_GRACE_S) for each in servers))
        # Nobody would start a management that takes the replicas of an orphan over.
        if ending.failure is None and (settings.stop_replicas_on_exit or ending.is_orphan):
            await reconciler.stop_all_containers()
        else:
            await reconciler.stop()


@asynccontextmanager
async def _locked(
    data_dir: Path, wait_s: float = 0.0, stop: asyncio.Event | None = None
) -> AsyncIterator[None]:
    path = private_directory(data_dir) / LOCK_FILE
    end = MONOTONIC() + wait_s
    try:
        file = path.open("w")
    except OSError as error:
        raise cannot_use(path, error) from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if MONOTONIC() >= end or (stop is not None and stop.is_set()):
                    raise FailedPrecondition(
                        f"data directory {data_dir} is in use by another management; stop that "
                        "one, or choose another directory with --data-dir"
                    ) from None
                await asyncio.sleep(_LOCK_RETRY_S)
            except OSError as error:
                raise FailedPrecondition(
                    f"cannot lock data directory {data_dir}: {error}; use a file system that has "
                    "locks, such as a local disk or NFS 4"
                ) from error
            else:
                break
        yield
