"""A cluster on this machine whose services one process supervises until a signal."""

import asyncio
import contextlib
import os
import signal
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from skysail.async_client import AsyncClient
from skysail.clusters.base import Cluster, Confirm, Flags, Progress
from skysail.clusters.cluster_file import read_endpoints, remove_endpoints, write_endpoints
from skysail.clusters.data_dir_lock import LOCK_FILE, lock, lock_holder, mark_as_released
from skysail.clusters.kubernetes.cluster_record import ClusterRecord, remove_record
from skysail.clusters.options import ClusterEndpoints, ClusterOptions
from skysail.clusters.ports import check_ports
from skysail_common.clock import MONOTONIC
from skysail_common.errors import FailedPrecondition, SkysailError
from skysail_common.extras import require_extra
from skysail_common.process.data_dir import log_path
from skysail_common.process.lifecycle import BackgroundTasks, stop_event
from skysail_common.process.log_rotation import rotate_logs

_DOWN_TIMEOUT_S = 120.0
_DOWN_CHECK_S = 0.05
_STORE_TIMEOUT_S = 5.0


class SupervisedCluster(Cluster):
    """A cluster that lives as long as the process of `skysail up`.

    The lock of the data directory marks that process, so that another command can stop it. A lock
    file whose holder did not release it tells that services may be left.
    """

    is_supervised: ClassVar[bool] = True

    def __init__(self, options: ClusterOptions, environment: Mapping[str, str]) -> None:
        """Starts nothing yet; services inherit `environment`."""
        self._options = options
        self._data_dir = options.data_dir
        self._environment = {**environment, **options.management_environment()}
        self._tasks = BackgroundTasks(self._fail)
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._lock = -1
        """Descriptor that stays open until the process ends, because no service outlives that."""

    @classmethod
    def from_flags(
        cls, data_dir: Path, flags: Flags, environment: Mapping[str, str]
    ) -> "SupervisedCluster":
        """Return the cluster that the options of a command describe."""
        return cls(ClusterOptions.from_flags(data_dir, flags), environment)

    def check(self, progress: Progress) -> None:
        """Check that the services are installed."""
        require_extra("server")
        if self._options.container_manager == "docker":
            require_extra("docker")
        if (note := ClusterRecord.read(self._data_dir)) is not None:
            progress(f"{note.where} runs on; '{note.down_command}' removes it")

    async def up(self, on_ready: Callable[[ClusterEndpoints], None], progress: Progress) -> None:
        """Run the cluster until SIGTERM, SIGINT or SIGHUP, then stop all of its services.

        Raises:
            SkysailError: the supervision of a service failed by an internal error.
        """
        self._stopping = stop_event()
        self._check_exposure()
        self._lock = lock(self._data_dir)
        check_ports(self._options.addresses())
        logs = [log_path(self._data_dir, name) for name in ("cluster", "store")]
        self._tasks.start(rotate_logs(logs), "rotate logs")
        # `skysail down` stops the cluster that was started last.
        remove_record(self._data_dir)
        starting = asyncio.ensure_future(self._start())
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                endpoints = starting.result()
                write_endpoints(self._data_dir, endpoints, pid=os.getpid())
                on_ready(endpoints)
                await stopped
        finally:
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)
            remove_endpoints(self._data_dir)
            # From here on, nothing restarts a service that ends.
            await self._tasks.stop()
            if await self._stop():
                mark_as_released(self._lock)
        if self._failure is not None:
            raise SkysailError(f"the supervisor failed: {self._failure!r}") from self._failure

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._stopping.set()

    async def endpoints(self) -> ClusterEndpoints:
        """Return the endpoints that the supervising process recorded."""
        return read_endpoints(self._data_dir)

    async def down(
        self, confirm: Confirm, *, deletes_data: bool = False, is_forced: bool = False
    ) -> list[str]:
        """Stop the supervising process, or remove the services that a killed one left behind."""
        if not is_forced:
            await self._check_store()
        if not await self._end():
            raise FailedPrecondition(f"no cluster runs in {self._data_dir}")
        return ["stopped"]

    async def _check_store(self) -> None:
        """Check that stopping the cluster loses no record that only its management has.

        Raises:
            FailedPrecondition: the store answers, but lost records.
        """
        endpoints = await self.endpoints()
        endpoint = endpoints.socket or endpoints.management
        if not endpoint:
            return
        try:
            async with AsyncClient(endpoint, timeout_s=_STORE_TIMEOUT_S) as client:
                found = await client.status()
        except SkysailError:
            # A management that does not answer has nothing to restore from, and must be stoppable.
            return
        if found.is_store_reachable and found.store_problem:
            raise FailedPrecondition(
                f"cannot stop the cluster in {self._data_dir}: {found.store_problem.rstrip('.')}; "
                "only its management still has the records: run 'skysail store restore' first, or "
                "pass --yes to lose them"
            )

    async def _end(self) -> bool:
        """End the supervising process or remove its leftovers; False if there are neither.

        Raises:
            FailedPrecondition: it does not end within two minutes.
        """
        if not (self._data_dir / LOCK_FILE).exists():
            return False
        pid = 0
        end = MONOTONIC() + _DOWN_TIMEOUT_S
        while MONOTONIC() < end:
            last_holder = lock_holder(self._data_dir)
            try:
                descriptor = lock(self._data_dir)
            except FailedPrecondition:
                holder = lock_holder(self._data_dir)
                # The file is empty for a moment while a cluster starts.
                if holder and holder != pid:
                    pid = holder
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                await asyncio.sleep(_DOWN_CHECK_S)
            else:
                try:
                    has_left = last_holder != 0 and await self._remove_leftovers()
                    mark_as_released(descriptor)
                finally:
                    os.close(descriptor)
                return has_left or pid != 0
        raise FailedPrecondition(
            f"cannot stop the cluster in {self._data_dir}: its process {pid} does not end; see its log"
        )

    def hints(self, endpoints: ClusterEndpoints) -> list[str]:
        """Return how the operator stops the cluster."""
        return ["Ctrl-C stops it."]

    @abstractmethod
    def _check_exposure(self) -> None:
        """Check that management is open only to authenticated or local callers.

        Raises:
            FailedPrecondition: management would be open to everybody.
        """

    @abstractmethod
    async def _start(self) -> ClusterEndpoints:
        """Start every service and return once a frontend takes queries; `up` may cancel this."""

    @abstractmethod
    async def _stop(self) -> bool:
        """Stop every service that `_start` started; False if replicas may be left."""

    @abstractmethod
    async def _remove_leftovers(self) -> bool:
        """Remove the services of a killed cluster; False if there are none.

        The caller holds the lock of the data directory.
        """
