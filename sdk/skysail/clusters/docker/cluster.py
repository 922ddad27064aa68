"""A cluster whose services are containers too: `skysail up --all-in-docker`."""

from collections.abc import Mapping

from skysail.clusters.docker.services import DockerServices
from skysail.clusters.local.cluster import DOCKER_NOTE, Cluster
from skysail.clusters.options import ClusterEndpoints, ClusterOptions
from skysail.settings import CLUSTER_FILE
from skysail_common.errors import FailedPrecondition
from skysail_common.process.sockets import check_management_host


class DockerCluster(Cluster):
    """The containers of a cluster; the engine keeps them running."""

    def __init__(self, options: ClusterOptions, environment: Mapping[str, str]) -> None:
        """Starts nothing yet; the services get their settings in `environment`."""
        super().__init__(options, environment)
        self._services = DockerServices(options.data_dir, environment)

    async def _start(self) -> ClusterEndpoints:
        # While this note exists, `skysail down` looks for remains.
        (self._options.data_dir / DOCKER_NOTE).write_text(self._services.host)
        endpoints = await self._services.start(self._options)
        for files in self._services.files:
            self._tasks.start(files.keep_renewed(), "renew files")
        return endpoints

    def _check_doors(self) -> None:
        for name in ("SKYSAIL_MANAGEMENT_TLS_CERTIFICATE_FILE", "SKYSAIL_MANAGEMENT_TLS_KEY_FILE"):
            if self._environment.get(name):
                raise FailedPrecondition(
                    f"cannot use {name} with --all-in-docker: management there speaks no TLS; unset "
                    "it, or run management as a process"
                )
        check_management_host(
            self._options.management_host,
            is_guarded=False,
            is_insecure=self._options.insecure,
            can_be_guarded=False,
        )

    async def _stop(self) -> bool:
        (self._options.data_dir / CLUSTER_FILE).unlink(missing_ok=True)
        await self._tasks.stop()
        await self._services.remove()
        await self._services.close()
        (self._options.data_dir / DOCKER_NOTE).unlink(missing_ok=True)
        return True
