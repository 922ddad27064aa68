"""A cluster whose services are processes of this machine."""

from collections.abc import Mapping

from skysail.clusters.local.services import LocalServices, remove_leftovers
from skysail.clusters.local.store import stop_stray_store
from skysail.clusters.options import ClusterEndpoints, ClusterOptions
from skysail.clusters.supervised import SupervisedCluster
from skysail_common.process.sockets import check_management_host


class LocalCluster(SupervisedCluster):
    """The processes of a cluster, as children of the process that supervises them."""

    def __init__(self, options: ClusterOptions, environment: Mapping[str, str]) -> None:
        """Starts nothing yet; services inherit `environment`."""
        super().__init__(options, environment)
        self._services = LocalServices(options, self._environment, self._tasks)

    def _check_exposure(self) -> None:
        guards = ("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE", "TOKEN_FILE")
        check_management_host(
            self._options.management_host,
            is_guarded=all(self._environment.get(f"SKYSAIL_MANAGEMENT_{each}") for each in guards),
            is_insecure=self._options.insecure,
        )

    async def _start(self) -> ClusterEndpoints:
        await stop_stray_store(self._data_dir)
        return await self._services.start()

    async def _stop(self) -> bool:
        return await self._services.stop()

    async def _remove_leftovers(self) -> bool:
        return await remove_leftovers(self._data_dir, self._options.cluster, self._environment)
