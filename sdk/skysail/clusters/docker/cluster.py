"""A cluster whose services are containers of the engine of this machine."""

from collections.abc import Mapping

from skysail.clusters.docker.services import DockerServices
from skysail.clusters.local.services import remove_leftovers
from skysail.clusters.options import ClusterEndpoints, ClusterOptions
from skysail.clusters.supervised import SupervisedCluster
from skysail.settings import DOCKER_RECORD
from skysail_common.errors import FailedPrecondition
from skysail_common.process.sockets import check_management_host


class DockerCluster(SupervisedCluster):
    """The containers of a cluster; the engine restarts them."""

    def __init__(self, options: ClusterOptions, environment: Mapping[str, str]) -> None:
        """Starts nothing yet; services get their settings from `environment`."""
        super().__init__(options, environment)
        self._note = self._data_dir / DOCKER_RECORD
        self._services: DockerServices | None = None

    def _check_exposure(self) -> None:
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

    async def _start(self) -> ClusterEndpoints:
        self._services = DockerServices(self._data_dir, self._environment)
        # While the note exists, `skysail down` looks for containers.
        self._note.write_text(self._services.host)
        endpoints = await self._services.start(self._options)
        for files in self._services.files:
            self._tasks.start(files.keep_renewed(), "renew files")
        return endpoints

    async def _stop(self) -> bool:
        if self._services is not None:
            await self._services.remove()
            await self._services.close()
        self._note.unlink(missing_ok=True)
        return True

    async def _remove_leftovers(self) -> bool:
        # A local cluster may have used the data directory before.
        had_processes = await remove_leftovers(
            self._data_dir, self._options.cluster, self._environment
        )
        had_containers = await self._remove_containers()
        return had_processes or had_containers

    async def _remove_containers(self) -> bool:
        # A cluster that stopped, or another command, may have removed them and the note.
        if not self._note.exists():
            return False
        # The note names the engine of the start, which DOCKER_HOST may not name now.
        host = self._note.read_text()
        engine = {"DOCKER_HOST": host} if host else {}
        services = DockerServices(self._data_dir, {**self._environment, **engine})
        was_found = await services.remove()
        await services.close()
        self._note.unlink()
        return was_found
