"""Start and removal of the containers of a cluster that is all in Docker."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from skysail.clusters.docker.file_copies import FileCopies
from skysail.clusters.docker.specifications import (
    FILES,
    FRONTEND,
    MANAGEMENT,
    NEAR_REPLICAS,
    PROMETHEUS,
    SERVICE,
    STORE,
    DockerSpecifications,
    identity_labels,
    prometheus_config,
)
from skysail.clusters.options import ClusterEndpoints, ClusterOptions, frontend_scheme
from skysail.clusters.ports import free_port
from skysail_common.clock import MONOTONIC
from skysail_common.docker.engine import DockerEngine, EngineRefused, NotOnEngine
from skysail_common.docker.labels import label_filter, labels, own_labels
from skysail_common.errors import FailedPrecondition
from skysail_common.process.child_process import StartFailed
from skysail_common.process.http_get import read_page
from skysail_common.process.sockets import join_host_port
from skysail_common.process.threads import in_thread
from skysail_common.rpc.health_check import is_serving
from skysail_common.states import ExitCode

_ENGINE = "unix:///var/run/docker.sock"
_USER = 65532
_START_TIMEOUT_S = 60.0
_CHECK_S = 0.1
_CHECK_TIMEOUT_S = 1.0
_STOP_TIMEOUT_S = 30
_PORT_TRIES = 5
_MAX_RESTARTS = 2
_LOG_TAIL_LINES = 20
_STOP_ORDER = {FRONTEND: 0, PROMETHEUS: 0, MANAGEMENT: 1, "": 2, STORE: 3}
"""Order in which containers stop, by service; replicas have no service."""


class DockerServices:
    """The containers and networks of the cluster of one data directory."""

    def __init__(self, data_dir: Path, environment: Mapping[str, str]) -> None:
        """Connects to the engine that DOCKER_HOST of the environment names, on first use."""
        self._marks = identity_labels(data_dir)
        self._environment = environment
        self.host = environment.get("DOCKER_HOST", _ENGINE)
        """Address of the engine."""
        self._engine = DockerEngine(self.host)
        self.files: list[FileCopies] = []
        """Copies of files for the services that were started."""

    async def close(self) -> None:
        """Close the connection to the engine."""
        await self._engine.close()

    async def start(self, options: ClusterOptions) -> ClusterEndpoints:
        """Start every service and return once a frontend takes queries.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
            FailedPrecondition: an image or a file is missing, or the engine is on another machine.
            StartFailed: a service does not start.
            EngineRefused: the engine refuses a container or a network.
        """
        plan = self._plan(options)
        # A killed cluster leaves containers behind.
        await self.remove()
        for service in (STORE, MANAGEMENT, FRONTEND):
            _make_directory(plan.directory / service, plan.user)
        for service in FILES:
            self.files.append(FileCopies(plan.files(service), plan.copies(service), plan.user))
            self.files[-1].renew()
        for name, settings in plan.networks().items():
            await self._make_network(name, settings)
        if not options.redis_url:
            await self._run(plan, STORE)
        management = await self._run(plan, MANAGEMENT)
        await self._wait_until_ready(plan.name(MANAGEMENT), management["management"], is_serving)
        bound = await self._run(plan, FRONTEND)
        prometheus = ""
        if options.prometheus_port is not None:
            prometheus = await self._start_prometheus(plan)
        await self._wait_until_ready(plan.name(FRONTEND), bound["metrics"], _takes_queries)
        return ClusterEndpoints(
            management["management"],
            bound["grpc"],
            bound["http"],
            bound["metrics"],
            prometheus,
            frontend_scheme(self._environment),
        )

    async def _start_prometheus(self, plan: DockerSpecifications) -> str:
        for directory in (plan.prometheus_file.parent, plan.prometheus_data):
            _make_directory(directory, plan.user)
        plan.prometheus_file.write_text(json.dumps(prometheus_config(), indent=2))
        bound = await self._run(plan, PROMETHEUS)
        await self._wait_until_ready(plan.name(PROMETHEUS), bound["prometheus"], _serves_pages)
        return bound["prometheus"]

    def _plan(self, options: ClusterOptions) -> DockerSpecifications:
        scheme, _, path = self.host.partition("://")
        if scheme != "unix":
            raise FailedPrecondition(
                f"cannot run all in Docker on the engine at {self.host}: it is on another machine; "
                "set DOCKER_HOST to the engine of this machine"
            )
        # The first call reports a missing socket.
        group = os.stat(path).st_gid if os.path.exists(path) else 0
        user = os.getuid() or _USER
        return DockerSpecifications(options, self._environment, user, Path(path), group)

    async def _make_network(self, name: str, settings: Mapping[str, Any]) -> None:
        await self._engine.do(
            lambda client: client.create_network(
                name, driver="bridge", labels=labels(self._marks), **settings
            )
        )

    async def _run(self, plan: DockerSpecifications, service: str) -> dict[str, str]:
        """Start a container and return its published endpoints."""
        name, replicas = plan.name(service), plan.name("replicas")
        ports = plan.ports(service)
        for tries in range(_PORT_TRIES):
            bound = {}
            for each, port in ports.items():
                host = plan.options.host_of(each)
                bound[each] = join_host_port(host, port or free_port(host))
            try:
                await self._create(name, plan.config(service, bound))
                if service in NEAR_REPLICAS:
                    await self._engine.do(
                        lambda client: client.connect_container_to_network(name, replicas)
                    )
                await self._engine.do(lambda client: client.start(name))
            except NotOnEngine as error:
                raise FailedPrecondition(
                    f"{error.message}; build the images with 'make images'"
                ) from error
            except EngineRefused as error:
                # A process may bind the free port before the engine does.
                is_taken = "already" in error.message and 0 in ports.values()
                if not is_taken or tries == _PORT_TRIES - 1:
                    raise
                await self._remove(name)
            else:
                break
        return bound

    async def _create(self, name: str, config: dict[str, Any]) -> None:
        await self._engine.do(lambda client: client.create_container_from_config(config, name))

    async def _wait_until_ready(
        self, name: str, endpoint: str, is_ready: Callable[[str], Awaitable[bool]]
    ) -> None:
        end = MONOTONIC() + _START_TIMEOUT_S
        while MONOTONIC() < end:
            if await is_ready(endpoint):
                return
            found = await self._engine.do(lambda client: client.inspect_container(name))
            # A refused setting would be refused again. The exit code stays until the next start.
            is_misused = found["State"]["ExitCode"] == ExitCode.USAGE
            if is_misused or found["RestartCount"] > _MAX_RESTARTS:
                break
            await asyncio.sleep(_CHECK_S)
        log_tail = await self._engine.do(lambda client: client.logs(name, tail=_LOG_TAIL_LINES))
        sys.stderr.write(log_tail.decode(errors="replace"))
        raise StartFailed(
            f"cannot start container {name}: it did not become ready; see its log above"
        )

    async def remove(self) -> bool:
        """Stop and remove all containers and networks; False if there were none.

        Raises:
            ContainerManagerUnavailable: the engine does not answer.
        """
        mine = label_filter(self._marks)
        found = await self._engine.do(lambda client: client.containers(all=True, filters=mine))
        for _, group in groupby(sorted(found, key=_stop_order), key=_stop_order):
            await asyncio.gather(*(self._remove(each["Id"]) for each in group))
        networks = await self._engine.do(lambda client: client.networks(filters=mine))
        for network in networks:
            await self._remove_network(network["Id"])
        # The directory has the records of management about removed replicas.
        shutil.rmtree(Path(self._marks["data-dir"]) / "containers", ignore_errors=True)
        return bool(found or networks)

    async def _remove(self, name: str) -> None:
        # Ignore containers that were already removed.
        with contextlib.suppress(EngineRefused):
            await self._engine.do(lambda client: client.stop(name, timeout=_STOP_TIMEOUT_S))
        with contextlib.suppress(EngineRefused):
            await self._engine.do(lambda client: client.remove_container(name, v=True, force=True))

    async def _remove_network(self, network: str) -> None:
        with contextlib.suppress(NotOnEngine):
            await self._engine.do(lambda client: client.remove_network(network))


async def _takes_queries(endpoint: str) -> bool:
    # The check uses the metrics port, because gRPC may need TLS.
    try:
        status, _ = await read_page(endpoint, "/ready")
    except OSError:
        return False
    return status == http.client.OK


async def _serves_pages(endpoint: str) -> bool:
    def asked() -> bool:
        connection = http.client.HTTPConnection(endpoint, timeout=_CHECK_TIMEOUT_S)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return await in_thread(asked)


def _stop_order(found: Mapping[str, Any]) -> int:
    return _STOP_ORDER[own_labels(found["Labels"]).get(SERVICE, "")]


def _make_directory(directory: Path, user: int) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if user != os.getuid():
        os.chown(directory, user, user)
