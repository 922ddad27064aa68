"""A cluster whose services are containers too: `skysail up --all-in-docker`."""

from collections.abc import Mapping

from skysail.settings import CLUSTER_FILE
from skysail.supervisor.cluster import DOCKER_NOTE, Cluster
from skysail.supervisor.docker_services import DockerServices
from skysail.supervisor.options import ClusterEndpoints, ClusterOptions


class DockerCluster(Cluster):
    """The containers of a cluster; the engine keeps them running."""

    def __init__(self, options: ClusterOptions, environment: Mapping[str, str]) -> None:
        """Starts nothing yet; the services get their settings in `environment`."""
        super().__init__(options, environment)
        self._services = DockerServices(options.data_dir, environment)

    async def _start(self) -> ClusterEndpoints:
        # Until it is removed, `skysail down` looks for what is left.
        (self._options.data_dir / DOCKER_NOTE).write_text(self._services.host)
        return await self._services.start(self._options)

    async def _stop(self) -> bool:
        (self._options.data_dir / CLUSTER_FILE).unlink(missing_ok=True)
        await self._services.remove()
        await self._services.close()
        (self._options.data_dir / DOCKER_NOTE).unlink(missing_ok=True)
        return True
