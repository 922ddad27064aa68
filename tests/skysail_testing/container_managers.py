"""Back ends for the tests of container managers, and helpers to use them.

A new back end adds a class like `LocalBackend` and its name to `BACKENDS`.
"""

import asyncio
import functools
import ipaddress
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import types
import zipfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import skysail.artifact.build
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.json_or_text import value_of
from skysail_common.kubernetes.anchor import anchor_name
from skysail_common.kubernetes.api import WatchEvent
from skysail_common.resources import Resources
from skysail_common.rpc.channels import open_channel
from skysail_common.rpc.link_identity import identity_metadata
from skysail_common.states import ReplicaState
from skysail_common.tensors import join_bytes_elements, split_bytes_elements
from skysail_common.tokens import replica_token
from skysail_management.containers.base import (
    Container,
    ContainerManager,
    ReplicaSpec,
    VersionSpec,
)
from skysail_management.containers.docker.manager import DockerEngineManager
from skysail_management.containers.kubernetes.manager import KubernetesManager
from skysail_management.containers.local.manager import LocalProcessManager
from skysail_management.settings import ManagementSettings
from skysail_protos.v1 import model_server_pb2, model_server_pb2_grpc
from skysail_testing.artifact_server import SECRET, ArtifactServer, ServedArtifact, served
from skysail_testing.keywords import take_resources
from skysail_testing.kubernetes_clusters import (
    PACKAGES_CLAIM,
    kubernetes_cluster,
    why_no_kubernetes,
)

M1 = ModelVersion("m", "1")
IMAGE = ManagementSettings.model_fields["docker_image"].default

_PATIENCE_S = 30.0


class Backend(ABC):
    """An engine that runs containers, with failures that tests inject without the manager."""

    host = "127.0.0.1"
    """Host at which containers reach the test process."""

    cluster_name = "test"
    """Name of the cluster of its managers."""

    fetches_artifacts = True
    """Whether containers fetch their artifact from the test process with a token."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @staticmethod
    def why_not() -> str:
        """Return the reason to skip this back end; empty if it can run."""
        return ""

    @abstractmethod
    def make_manager(self) -> ContainerManager:
        """Return a closed manager; all managers of a back end share its containers."""

    def keep(self, artifact: ServedArtifact) -> None:
        """Store an artifact like management."""
        return

    def requirement(self, wheel: Path) -> str:
        """Return a requirement that installs a wheel wherever pip runs."""
        return str(wheel)

    def find_links(self, directory: Path) -> list[str]:
        """Return the lines of a requirements file that let pip find the wheels of a directory."""
        return [f"--find-links {directory}"]

    @abstractmethod
    async def kill(self, container: Container) -> None:
        """Kill a container with SIGKILL, as the kernel would."""

    @abstractmethod
    def lose_events(self, manager: Any) -> None:
        """Drop all later events about the ends of containers."""

    def forget_manager(self, manager: ContainerManager) -> None:
        """Record that a manager was closed, as if its process were gone."""
        return

    async def clean_up(self) -> None:
        """Remove all remains of a test."""
        return


class LocalBackend(Backend):
    """Processes of this machine."""

    def __init__(self, directory: Path, gpu_devices: str = "") -> None:
        super().__init__(directory)
        self._gpu_devices = gpu_devices
        self._gone: list[LocalProcessManager] = []

    def make_manager(self) -> LocalProcessManager:
        environment = {**os.environ, "PIP_NO_INDEX": "1"}
        return LocalProcessManager(
            self.directory, "test", environment, environment, self._gpu_devices
        )

    async def kill(self, container: Container) -> None:
        os.kill(self.pid(container), signal.SIGKILL)

    def pid(self, container: Container) -> int:
        record = self.directory / "replicas" / container.container_id / "container.json"
        return int(json.loads(record.read_text())["pid"])

    def lose_events(self, manager: LocalProcessManager) -> None:
        for task in list(manager._tasks._tasks):
            if task.get_name().startswith("exit of"):
                task.cancel()

    def forget_manager(self, manager: ContainerManager) -> None:
        assert isinstance(manager, LocalProcessManager)
        self._gone.append(manager)

    async def clean_up(self) -> None:
        # The test process is still the parent, so init does not reap these processes.
        for manager in self._gone:
            for replica in manager._replicas.values():
                if replica.child is not None:
                    await asyncio.to_thread(replica.child.wait, 10)


class DockerBackend(Backend):
    """Containers of the Docker engine of this machine."""

    fetches_artifacts = False

    def __init__(self, directory: Path, **values: Any) -> None:
        super().__init__(directory)
        self.values = values

    @staticmethod
    def why_not() -> str:
        return why_no_docker()

    def make_manager(self) -> DockerEngineManager:
        settings = ManagementSettings(data_dir=self.directory, cluster="test", **self.values)
        return DockerEngineManager(settings)

    def keep(self, artifact: ServedArtifact) -> None:
        keep_in(self.directory, artifact)

    async def kill(self, container: Container) -> None:
        await asyncio.to_thread(run_docker, "kill", "--signal", "KILL", container.container_id)

    def lose_events(self, manager: DockerEngineManager) -> None:
        handle_end, deaf = manager._handle_end, "events of the Docker engine"

        async def unless_by_event(name: str) -> None:
            task = asyncio.current_task()
            if task is None or task.get_name() != deaf:
                await handle_end(name)

        manager._handle_end = unless_by_event  # type: ignore[method-assign]


def keep_in(directory: Path, artifact: ServedArtifact) -> None:
    """Write an artifact into a data directory like management."""
    artifacts = directory / "artifacts"
    (artifacts / "blobs").mkdir(parents=True, exist_ok=True)
    (artifacts / artifact.sha256).write_bytes(artifact.content)
    for sha256, content in artifact.blobs.items():
        blob = artifacts / "blobs" / sha256
        if not blob.exists():
            blob.write_bytes(content)
            blob.chmod(0o444)


@functools.cache
def why_no_docker() -> str:
    """Return a reason to skip the tests with Docker; empty if none."""
    if shutil.which("docker") is None:
        return "no docker on this machine"
    try:
        run_docker("version")
    except subprocess.SubprocessError:
        return "no docker engine answers"
    try:
        run_docker("image", "inspect", IMAGE)
    except subprocess.SubprocessError:
        return f"docker has no image {IMAGE}: make images"
    return ""


def run_docker(*arguments: str) -> str:
    """Return the output of a command of the Docker client."""
    command = ["docker", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def docker_gateways(*networks: str) -> set[str]:
    """Return the addresses of this machine on networks of the engine."""
    found = json.loads(run_docker("network", "inspect", *networks))
    configs = [config for each in found for config in each["IPAM"]["Config"] or ()]
    # A new engine reports no gateway of its bridge.
    return {
        config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))
        for config in configs
    }


class KubernetesBackend(Backend):
    """Pods of a Kubernetes cluster, seen from the machine of its only node."""

    def __init__(self, directory: Path, **values: Any) -> None:
        super().__init__(directory)
        self.cluster = kubernetes_cluster()
        self.host = self.cluster.node_address
        self.namespace = self.cluster.shared_namespace
        # The tests share a namespace, so each has another cluster name.
        self.cluster_name = f"t{secrets.token_hex(3)}"
        self.values = values

    @staticmethod
    def why_not() -> str:
        return why_no_kubernetes()

    def make_manager(self) -> KubernetesManager:
        values = {
            "cluster": self.cluster_name,
            "kubeconfig": str(self.cluster.config),
            "kubernetes_namespace": self.namespace,
            "kubernetes_packages_claim": PACKAGES_CLAIM,
            **self.values,
        }
        return KubernetesManager(ManagementSettings(data_dir=self.directory, **values))

    def keep(self, artifact: ServedArtifact) -> None:
        # The manager builds images of versions from this file if it has a registry.
        keep_in(self.directory, artifact)

    def requirement(self, wheel: Path) -> str:
        name = wheel.name.partition("-")[0]
        return f"{name} @ {self.cluster.serve(wheel.parent)}/{wheel.name}"

    def find_links(self, directory: Path) -> list[str]:
        url = self.cluster.serve(directory)
        return [f"--find-links {url}/", f"--trusted-host {self.host}"]

    async def kill(self, container: Container) -> None:
        await asyncio.to_thread(
            self.cluster.kill_model_server, self.namespace, container.container_id
        )

    def lose_events(self, manager: KubernetesManager) -> None:
        async def unheard(change: WatchEvent) -> None:
            return

        # An assignment under another name would lose no event.
        assert callable(manager._pods._apply)
        manager._pods._apply = unheard  # type: ignore[method-assign]

    async def clean_up(self) -> None:
        name = anchor_name(self.cluster_name)
        await asyncio.to_thread(
            self.cluster.kubectl, "delete", "configmap", name, "--namespace", self.namespace,
            "--cascade=background", "--ignore-not-found", "--wait=false",
        )  # fmt: skip


BACKENDS: dict[str, type[Backend]] = {
    "local": LocalBackend,
    "docker": DockerBackend,
    "kubernetes": KubernetesBackend,
}


def portable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is pickled without the test module and imports its dependencies."""
    return types.FunctionType(function.__code__, {"__name__": "__main__"}, function.__name__)


class ManagerHarness:
    """An open manager, its reports, and the artifacts for its containers."""

    def __init__(self, backend: Backend, manager: ContainerManager, server: ArtifactServer) -> None:
        self.backend = backend
        self.manager = manager
        self.server = server
        self.seen: list[Container] = []
        self._changed = asyncio.Condition()

    async def watch(self) -> None:
        async for container in self.manager.watch():
            async with self._changed:
                self.seen.append(container)
                self._changed.notify_all()

    def states(self, container: Container) -> list[ReplicaState]:
        """Return the reported states of a container."""
        return [box.state for box in self.seen if box.container_id == container.container_id]

    async def reported(self, container: Container, *states: ReplicaState) -> Container:
        """Return the first report of a container in one of these states."""

        def find() -> Container | None:
            for box in self.seen:
                if box.container_id == container.container_id and box.state in states:
                    return box
            return None

        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(find), _PATIENCE_S)
        found = find()
        assert found is not None
        return found

    async def ended(self, container: Container) -> Container:
        return await self.reported(container, ReplicaState.FAILED, ReplicaState.STOPPED)

    def version(
        self,
        function: object,
        version: ModelVersion = M1,
        requirements: Iterable[str] = (),
        **values: Any,
    ) -> VersionSpec:
        """Build a version of a function and serve its artifact."""
        values = values or {"input_type": "strings"}
        if isinstance(function, types.FunctionType):
            function = portable(function)
        # The check is off because it would run harmful functions in the test process.
        values = {"check": False, **values}
        artifact = skysail.artifact.build.build_artifact(function, **values)  # type: ignore[arg-type]
        kept = served(artifact)
        self.server.serve(version, kept)
        self.backend.keep(kept)
        return VersionSpec(version, kept.sha256, platform.python_version(), tuple(requirements))

    async def start(self, spec: VersionSpec, index: int = 0, **values: Any) -> Container:
        """Prepare a version and start a replica of it."""
        await self.manager.prepare(spec, lambda line: None)
        replica = {
            "management_endpoint": f"{self.backend.host}:{self.server.port}",
            "token": replica_token(SECRET, spec.model_version, spec.artifact_sha256),
            "resources": take_resources(values, Resources(num_threads=1)),
            **values,
        }
        return await self.manager.start(
            ReplicaSpec(ReplicaId(spec.model_version, index), spec, **replica)
        )

    async def start_ready(self, spec: VersionSpec, index: int = 0, **values: Any) -> Container:
        started = await self.start(spec, index, **values)
        ready = await self.reported(started, ReplicaState.READY, ReplicaState.FAILED)
        assert ready.state is ReplicaState.READY, ready.log_tail
        return ready

    async def live(self) -> list[Container]:
        return [box for box in await self.manager.list() if box.state.is_live]

    async def log(self, container: Container, tail_lines: int = 100) -> list[str]:
        lines = self.manager.logs(container.container_id, tail_lines, follow=False)
        return [line async for line in lines]


@asynccontextmanager
async def open_harness(backend: Backend, server: ArtifactServer) -> AsyncIterator[ManagerHarness]:
    """Open and watch a manager inside the `async with` block; its containers stay."""
    manager = backend.make_manager()
    await manager.open()
    harness = ManagerHarness(backend, manager, server)
    watching = asyncio.create_task(harness.watch())
    try:
        yield harness
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await manager.close()
        backend.forget_manager(manager)


@asynccontextmanager
async def running_backend(
    name: str, directory: Path, **values: Any
) -> AsyncIterator[tuple[Backend, ArtifactServer]]:
    """Run a back end and the artifact server inside the block; no container outlives it.

    Values are settings that tests of this back end give.
    """
    backend = BACKENDS[name](directory, **values)
    server = ArtifactServer()
    await server.start(backend.host)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        stack.push_async_callback(backend.clean_up)
        stack.push_async_callback(_stop_all, backend)
        yield backend, server


async def _stop_all(backend: Backend) -> None:
    manager = backend.make_manager()
    await manager.open()
    for container in await manager.list():
        await manager.stop(container.container_id, 0.0)
    await manager.sweep(lambda: [])
    await manager.close()


async def ask(container: Container, *texts: str) -> list[Any]:
    """Send each text as a query, all in one batch; return the answers, or errors, in order."""
    async with open_channel(container.endpoint) as channel:
        stub = model_server_pb2_grpc.ModelServerStub(channel)
        batch = model_server_pb2.Batch(id=1, rows=[1] * len(texts))
        batch.inputs.append(join_bytes_elements(text.encode() for text in texts))
        identity = identity_metadata(
            container.replica_id.model_version, container.labels["artifact"]
        )
        stream = stub.PredictBatches(iter([batch]), timeout=_PATIENCE_S, metadata=identity)
        result = await anext(aiter(stream))
        stream.cancel()
    errors = {error.index: error for error in result.errors}
    answered = split_bytes_elements(result.outputs[0], len(texts) - len(errors))
    values = iter(answered)
    return [
        errors[index] if index in errors else value_of(next(values).decode())
        for index in range(len(texts))
    ]


def make_wheel(directory: Path, name: str, source: str) -> Path:
    """Write a wheel with one module, which pip installs without a build or the network."""
    path = directory / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    members = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members[f"{info}/RECORD"] = "".join(f"{member},,\n" for member in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path
