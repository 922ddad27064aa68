"""The life of a management process: wait for the lease, own the store, serve, and let go.

run ─► with a lease: listen as a standby ─► lead ─┐
└► without a lease ───────────────────────────┴► lock, own the store ─► `ManagementService`
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from skysail_common.clock import MONOTONIC
from skysail_common.errors import StoreTaken
from skysail_common.extras import require_extra
from skysail_common.identifiers import check_name
from skysail_common.process.lifecycle import BackgroundTasks, watch_parent
from skysail_common.process.sockets import check_management_host
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.management_access import read_token
from skysail_common.store import Store
from skysail_management.admin_server import AdminServer
from skysail_management.artifacts.store import ARTIFACTS, count_artifacts
from skysail_management.containers.base import ContainerManager
from skysail_management.containers.discovery import find_container_manager
from skysail_management.ownership.acquisition import Leftovers, StoreAcquisition
from skysail_management.ownership.data_dir_lock import lock_data_dir
from skysail_management.ownership.owner_identity import owner_identity
from skysail_management.ownership.standby import Standby
from skysail_management.ownership.store_checkpoint import CheckpointFile
from skysail_management.reconciler.reconciler import stop_all
from skysail_management.service import ManagementService
from skysail_management.settings import ManagementSettings
from skysail_management.shutdown import Shutdown

if TYPE_CHECKING:
    from skysail_management.leadership.leader_term import LeaderTerm

    _Leadership = AbstractAsyncContextManager[LeaderTerm | None]

_MANAGER_FILE = "container-manager"
_HANDOVER_S = 30.0


async def run(settings: ManagementSettings) -> None:
    """Serve until SIGTERM or SIGINT; with a lease, only while this management holds it.

    Raises:
        FailedPrecondition: the data directory or the address is in use.
        StoreUnavailable: the store does not answer within its time.
        StoreRefused: the store rejects management.
        StoreTaken: another management owns the store, or took it over.
        StoreLost: the store lost data, and artifacts or replicas of the cluster exist.
        ContainerManagerUnavailable: the container manager does not answer.
        SkysailError: an essential task ended.
    """
    check_name("cluster", settings.cluster)
    if settings.stop_replicas_only:
        await _stop_replicas(settings)
    else:
        await Management(settings).run()


class Management:
    """One management process."""

    def __init__(self, settings: ManagementSettings) -> None:
        """Start to watch the parent process and the certificates.

        Raises:
            FailedPrecondition: the certificates or the token cannot be used.
        """
        self._settings = settings
        self._store = Store(settings.redis_url.get_secret_value(), settings.cluster)
        self._shutdown = Shutdown()
        self._tasks = BackgroundTasks(self._shutdown.fail)
        if settings.watch_parent:
            self._tasks.start(watch_parent(self._shutdown.orphan), "watch parent")
        certificates = _read_certificates(settings)
        if certificates is not None:
            watch = certificates.watch(settings.tls_check_every_s)
            self._tasks.start(watch, "watch certificates")
        file = settings.token_file
        token = read_token(file, "SKYSAIL_MANAGEMENT_TOKEN_FILE") if file else ""
        self._server = AdminServer(certificates, token)

    async def run(self) -> None:
        """Serve until the shutdown; errors as of `run`."""
        try:
            if self._settings.kubernetes_lease:
                await self._run_with_lease()
            else:
                await self._own_store()
        finally:
            await self._tasks.stop()
            await self._store.close()
        self._shutdown.raise_failure()

    async def _run_with_lease(self) -> None:
        """Listen as a standby, and own the store while this management leads."""
        self._server.listen(self._settings.host, self._settings.port)
        await self._server.start()
        standby = Standby(self._server, self._store)
        tasks = self._tasks.group()
        tasks.start(self._shutdown.guard(standby.announce()), "announce the standby")
        try:
            async with _load_leadership()(
                self._settings, self._shutdown.event, self._tasks, standby.mark_standby
            ) as term:
                if term is not None:
                    await self._own_store(term)
        finally:
            await tasks.stop()
            await self._server.stop(0)

    async def _own_store(self, term: "LeaderTerm | None" = None) -> None:
        """Serve while this management has the lock of the data directory and owns the store."""
        settings, stop = self._settings, self._shutdown.event
        # The previous leader may need a moment to release the lock.
        async with lock_data_dir(settings.data_dir, _HANDOVER_S if term else 0.0, stop):
            manager = find_container_manager(settings.container_manager)(settings)
            (settings.data_dir / _MANAGER_FILE).write_text(settings.container_manager)
            checkpoint = CheckpointFile(settings.data_dir, settings.cluster)
            acquisition = StoreAcquisition(
                self._store,
                owner_identity(settings.data_dir, term.lease_id if term else ""),
                checkpoint,
                lambda: _find_leftovers(settings),
                settings.accept_store_loss,
                MONOTONIC,
            )
            if not await acquisition.open(settings.store_timeout_s, stop):
                return
            try:
                service = await ManagementService.build(
                    settings,
                    self._shutdown,
                    self._server,
                    self._tasks.group(),
                    self._store,
                    checkpoint,
                    manager,
                )
                await service.run(term.label if term else None)
            finally:
                if not isinstance(self._shutdown.failure, StoreTaken):
                    await acquisition.close()


def _read_certificates(settings: ManagementSettings) -> ServerCertificates | None:
    """Return the certificates of the server.

    Raises:
        FailedPrecondition: the certificates cannot be used, or remote callers would need neither
            TLS nor a token.
    """
    certificates = settings.read_certificates()
    # The artifact port has no TLS.
    has_locks = certificates is not None and settings.token_file and settings.artifact_port is None
    check_management_host(settings.host, is_guarded=bool(has_locks), is_insecure=settings.insecure)
    return certificates


def _load_leadership() -> "Callable[..., _Leadership]":
    # A lease needs the client of Kubernetes, which is an optional dependency.
    require_extra("kubernetes")
    from skysail_management.leadership.leader_term import hold_leadership

    return hold_leadership


@asynccontextmanager
async def _opened_manager(
    name: str, settings: ManagementSettings
) -> AsyncIterator[ContainerManager]:
    manager = find_container_manager(name)(settings)
    await manager.open()
    try:
        yield manager
    finally:
        await manager.close()


async def _find_leftovers(settings: ManagementSettings) -> Leftovers:
    # A second container manager, because the one that serves adopts the replicas later.
    async with _opened_manager(settings.container_manager, settings) as manager:
        replicas = await manager.list()
    return Leftovers(count_artifacts(settings.data_dir / ARTIFACTS), len(replicas))


async def _stop_replicas(settings: ManagementSettings) -> None:
    async with lock_data_dir(settings.data_dir):
        file = settings.data_dir / _MANAGER_FILE
        # The file names the container manager, so that the caller need not know it.
        name = file.read_text() if file.exists() else settings.container_manager
        async with _opened_manager(name, settings) as manager:
            await stop_all(manager, settings.drain_timeout_s)
