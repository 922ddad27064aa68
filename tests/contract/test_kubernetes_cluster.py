"""Guarantees of the Kubernetes container manager alone; test_container_managers has the contract."""

import asyncio
import base64
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest

from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_common.kubernetes.errors import NotAllowed
from skysail_common.states import ReplicaState
from skysail_management.containers.base import Container, PrepareFailed
from skysail_testing.artifact_server import ArtifactServer
from skysail_testing.container_managers import (
    KubernetesBackend,
    ManagerHarness,
    ask,
    open_harness,
    running_backend,
)
from skysail_testing.kubernetes_clusters import (
    REGISTRY,
    KubernetesCluster,
    kubernetes_cluster,
    why_no_registry,
)

pytestmark = pytest.mark.kubernetes

M2 = ModelVersion("m", "2")


@pytest.fixture
async def backend_and_server(
    tmp_path: Path,
) -> AsyncIterator[tuple[KubernetesBackend, ArtifactServer]]:
    async with running_backend("kubernetes", tmp_path / "d") as backend_and_server:
        yield backend_and_server


@pytest.fixture
async def harness(backend_and_server) -> AsyncIterator[ManagerHarness]:
    async with open_harness(*backend_and_server) as harness:
        yield harness


@pytest.fixture
def cluster(backend_and_server) -> KubernetesCluster:
    return kubernetes_cluster()


def echo(texts):
    return list(texts)


async def wait_for_container(
    harness: ManagerHarness, container: Container, condition: Callable[[Container], bool]
) -> Container:
    """Return a container when its report satisfies the condition."""
    end = monotonic() + 30
    while monotonic() < end:
        for box in harness.seen:
            if box.container_id == container.container_id and condition(box):
                return box
        async with harness._changed:
            await asyncio.wait_for(harness._changed.wait(), 30)
    raise AssertionError(f"never reported; last {harness.seen[-1:]}")


def deployments(harness: ManagerHarness) -> list[dict]:
    backend = harness.backend
    assert isinstance(backend, KubernetesBackend)
    return backend.cluster.json(
        "get", "deployments", "--namespace", backend.namespace,
        "--selector", f"skysail.ai/cluster={backend.cluster_name}",
    )["items"]  # fmt: skip


async def test_replicas_of_a_version_are_pods_of_one_deployment(harness: ManagerHarness, cluster):
    spec = harness.version(echo)
    first, second = await asyncio.gather(harness.start_ready(spec), harness.start_ready(spec, 1))
    (found,) = await asyncio.to_thread(deployments, harness)
    assert found["spec"]["replicas"] == 2
    pod = cluster.json("get", "pod", first.container_id, "--namespace", harness.backend.namespace)
    assert pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
    assert pod["spec"]["automountServiceAccountToken"] is False
    # Kubernetes might choose another pod, but the named one must end.
    await harness.manager.stop(first.container_id, 5.0)
    assert [box.container_id for box in await harness.live()] == [second.container_id]
    (found,) = await asyncio.to_thread(deployments, harness)
    assert found["spec"]["replicas"] == 1
    assert await ask(second, "x") == ["x"]
    await harness.manager.stop(second.container_id, 5.0)
    await harness.manager.sweep(lambda: [spec])
    assert await asyncio.to_thread(deployments, harness) == []


async def test_missing_image_is_reported_within_seconds(backend_and_server):
    backend, server = backend_and_server
    backend.values = {"kubernetes_image": "localhost:1/no-such-image:1"}
    begin = time.monotonic()
    shown: dict[str, float] = {}
    async with open_harness(backend, server) as harness:
        with pytest.raises(PrepareFailed, match="cannot be pulled"):
            await harness.manager.prepare(
                harness.version(echo), lambda line: shown.setdefault(line, time.monotonic() - begin)
            )
        assert await harness.live() == []
    (seconds,) = [at for line, at in shown.items() if "connection refused" in line][:1]
    assert seconds < 10, shown


async def test_unschedulable_replica_is_reported_within_seconds(harness: ManagerHarness):
    started = await harness.start(harness.version(echo), cpus=1000.0)
    reported = await wait_for_container(harness, started, lambda box: bool(box.reason))
    assert "no node can hold it" in reported.reason
    assert "Insufficient cpu" in reported.reason
    await harness.manager.stop(started.container_id, 0.0)


async def test_out_of_memory_reason_names_the_limit(backend_and_server):
    def hoards(texts):
        return [str(len(b"x" * (int(text) * 1024 * 1024))) for text in texts]

    backend, server = backend_and_server
    backend.values = {"kubernetes_memory_mib": 200}
    async with open_harness(backend, server) as harness:
        container = await harness.start_ready(harness.version(hoards))
        assert await ask(container, "10") == [str(10 * 1024**2)]
        asking = asyncio.create_task(ask(container, "400"))
        failed = await harness.ended(container)
        assert failed.reason == "ran out of memory: its limit is 200 MiB"
        assert not failed.is_permanent
        await asyncio.gather(asking, return_exceptions=True)


async def test_deleted_pod_fails_at_once_and_its_replica_can_restart(
    harness: ManagerHarness, cluster
):
    def slowly(texts):
        import time

        print("at work", flush=True)
        time.sleep(2)
        return list(texts)

    spec = harness.version(slowly)
    container = await harness.start_ready(spec)
    asking = asyncio.create_task(ask(container, "x"))
    async for line in harness.manager.logs(container.container_id, 100, follow=True):
        if "at work" in line:
            break
    begin = monotonic()
    await asyncio.to_thread(
        cluster.kubectl, "delete", "pod", container.container_id, "--wait=false",
        "--namespace", harness.backend.namespace,
    )  # fmt: skip
    failed = await harness.ended(container)
    assert monotonic() - begin < 2
    assert failed.state is ReplicaState.FAILED
    assert failed.reason == "its pod was deleted"
    again = await harness.start_ready(spec)
    assert again.container_id != container.container_id
    # The deleted pod finishes its query.
    assert await asking == ["x"]
    assert [box.container_id for box in await harness.live()] == [again.container_id]


async def test_eviction_that_leaves_no_ready_replica_is_rejected(harness: ManagerHarness, cluster):
    spec = harness.version(echo)
    first, second = await asyncio.gather(harness.start_ready(spec), harness.start_ready(spec, 1))

    def evict(container: Container) -> subprocess.CompletedProcess[str]:
        eviction = {
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": container.container_id, "namespace": harness.backend.namespace},
        }  # fmt: skip
        path = (
            f"/api/v1/namespaces/{harness.backend.namespace}/pods/{container.container_id}/eviction"
        )
        command = [
            "kubectl",
            "--kubeconfig",
            str(cluster.config),
            "create",
            "--raw",
            path,
            "-f",
            "-",
        ]
        return subprocess.run(
            command, input=json.dumps(eviction), capture_output=True, text=True, check=False
        )

    assert (await asyncio.to_thread(evict, first)).returncode == 0
    failed = await harness.ended(first)
    assert "its pod is removed" in failed.reason
    refused = await asyncio.to_thread(evict, second)
    assert "disruption budget" in refused.stderr
    assert await ask(second, "x") == ["x"]
    # The eviction succeeds after another replica is ready.
    await harness.start_ready(spec)
    assert (await asyncio.to_thread(evict, second)).returncode == 0
    await harness.ended(second)


async def test_outside_scale_is_corrected(harness: ManagerHarness, cluster):
    spec = harness.version(echo)
    container = await harness.start_ready(spec)
    (found,) = await asyncio.to_thread(deployments, harness)
    where = (found["metadata"]["name"], "--namespace", harness.backend.namespace)
    await asyncio.to_thread(cluster.kubectl, "scale", "deployment", *where, "--replicas=3")
    await harness.manager.sweep(lambda: [spec])
    (found,) = await asyncio.to_thread(deployments, harness)
    assert found["spec"]["replicas"] == 1
    assert await ask(container, "x") == ["x"]
    # A deleted Deployment is created again.
    await asyncio.to_thread(cluster.kubectl, "delete", "deployment", *where, "--wait=false")
    await harness.ended(container)
    again = await harness.start_ready(spec)
    assert await ask(again, "x") == ["x"]


async def test_clusters_in_a_namespace_are_independent(backend_and_server, tmp_path: Path):
    async with running_backend("kubernetes", tmp_path / "other") as other_backend:
        async with (
            open_harness(*backend_and_server) as harness,
            open_harness(*other_backend) as other,
        ):
            mine, theirs = await asyncio.gather(
                harness.start_ready(harness.version(echo)), other.start_ready(other.version(echo))
            )
            assert [each.container_id for each in await harness.live()] == [mine.container_id]
            await harness.manager.stop(theirs.container_id, 0.0)
            with pytest.raises(SkysailError, match="no log of"):
                await harness.log(theirs)
            await harness.manager.stop(mine.container_id, 5.0)
            await harness.manager.sweep(lambda: [])
            assert await asyncio.to_thread(deployments, harness) == []
            assert await ask(theirs, "x") == ["x"]


async def test_a_cluster_is_reached_through_a_proxy(backend_and_server, cluster):
    backend, server = backend_and_server
    command = ["kubectl", "--kubeconfig", str(cluster.config), "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        address = proxy.stdout.readline().split()[-1]
        backend.values = {"kubernetes_proxy_addr": address}
        try:
            async with open_harness(backend, server) as harness:
                container = await harness.start_ready(harness.version(echo))
                assert await ask(container, "x") == ["x"]
                await harness.manager.stop(container.container_id, 1.0)
        finally:
            proxy.terminate()
        backend.values = {}


@contextmanager
def limited_config(cluster: KubernetesCluster, namespace: str, path: Path) -> Iterator[list[str]]:
    """Create a kubeconfig of an account with the role of management, whose rules can be changed."""
    name = f"t{secrets.token_hex(3)}"
    config = cluster.json("config", "view", "--raw")
    cluster.kubectl("create", "serviceaccount", name, "--namespace", namespace)
    token = cluster.kubectl("create", "token", name, "--namespace", namespace).strip()
    config["users"] = [{"name": name, "user": {"token": token}}]
    config["contexts"][0]["context"] |= {"user": name, "namespace": namespace}
    path.write_text(json.dumps(config))
    yield ["--namespace", namespace, "--serviceaccount", f"{namespace}:{name}", name]
    cluster.kubectl("delete", "serviceaccount", name, "--namespace", namespace)


async def test_missing_rule_is_reported_with_verb_and_resource(
    backend_and_server, cluster, tmp_path
):
    backend, _ = backend_and_server
    path = tmp_path / "limited"
    with limited_config(cluster, backend.namespace, path) as binding:
        backend.values = {"kubeconfig": str(path), "kubernetes_namespace": ""}
        with pytest.raises(NotAllowed, match=r"may not patch configmaps in namespace 'skt-"):
            await backend.make_manager().open()
        name = binding[-1]
        cluster.kubectl(
            "create", "role", name, "--namespace", backend.namespace, "--verb=get,list,watch,patch,create",
            "--resource=configmaps,pods",
        )  # fmt: skip
        cluster.kubectl("create", "rolebinding", *binding, "--role", name)
        with pytest.raises(NotAllowed, match=r"may not list deployments\.apps in namespace"):
            await backend.make_manager().open()
        cluster.kubectl("delete", "role,rolebinding", name, "--namespace", backend.namespace)
    backend.values = {}


async def test_packages_need_a_volume_and_no_local_files(backend_and_server, tmp_path: Path):
    backend, server = backend_and_server
    backend.values = {"kubernetes_packages_claim": ""}
    async with open_harness(backend, server) as harness:
        spec = harness.version(echo, requirements=["some-package==1.0"])
        with pytest.raises(PrepareFailed, match="kubernetes-packages-claim"):
            await harness.manager.prepare(spec, lambda line: None)
    backend.values = {}
    async with open_harness(backend, server) as harness:
        spec = harness.version(echo, requirements=[f"{tmp_path}/own-1.0-py3-none-any.whl"])
        with pytest.raises(
            PrepareFailed, match=r"own-1\.0-py3-none-any\.whl for .*pods do not see"
        ):
            await harness.manager.prepare(spec, lambda line: None)


def names_its_file(texts):
    import os

    found = os.stat("/artifact/files/weights.bin")
    others = sorted(name for name in os.listdir("/") if name == "cache")
    try:
        open("/artifact/evil", "w").close()
        access = "writable"
    except OSError as error:
        access = error.strerror
    return [f"{found.st_ino} {found.st_size} {found.st_nlink > 1} {access} {others}"]


async def test_the_pods_of_a_node_fetch_the_files_of_a_model_once(
    backend_and_server, cluster, tmp_path: Path
):
    """The directory of the node is made as docs/kubernetes/production.md says."""
    backend, server = backend_and_server
    cache = Path(f"/var/tmp/skysail-cache-{secrets.token_hex(4)}")
    cache.mkdir(mode=0o700)
    os.chown(cache, 65532, 65532)
    (tmp_path / "weights.bin").write_bytes(secrets.token_bytes(1_000_000))
    backend.values = {"kubernetes_cache_host_path": str(cache)}
    try:
        async with open_harness(backend, server) as harness:
            spec = harness.version(
                names_its_file,
                input_type="strings",
                files={"weights.bin": tmp_path / "weights.bin"},
            )
            first = await harness.start_ready(spec)
            fetched = server.num_blob_bytes
            assert fetched > 1_000_000
            second = await harness.start_ready(spec, 1)
            assert server.num_blob_bytes == fetched
            answers = {*await ask(first, "?"), *await ask(second, "?")}
            (answer,) = answers
            assert answer.endswith(" 1000000 True Read-only file system []")
            for container in await harness.live():
                await harness.manager.stop(container.container_id, 5.0)
    finally:
        shutil.rmtree(cache)


async def test_a_private_image_needs_the_right_pull_secret(backend_and_server, cluster):
    if reason := why_no_registry():
        pytest.skip(reason)
    backend, server = backend_and_server
    image = f"{REGISTRY.address}/skysail-model-server:{secrets.token_hex(4)}"
    await asyncio.to_thread(REGISTRY.push, image)
    name = f"t{secrets.token_hex(3)}"

    def secret(password: str) -> str:
        token = base64.b64encode(f"{REGISTRY.user}:{password}".encode()).decode()
        auths = {"auths": {REGISTRY.address: {"auth": token}}}
        return json.dumps(
            {
                "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
                "metadata": {"name": name},
                "stringData": {".dockerconfigjson": json.dumps(auths)},
            }
        )  # fmt: skip

    where = ("--namespace", backend.namespace)
    account = {
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name},
        "imagePullSecrets": [{"name": name}],
    }  # fmt: skip
    cluster.kubectl("apply", *where, "--filename", "-", stdin=json.dumps(account))
    cluster.kubectl("apply", *where, "--filename", "-", stdin=secret("wrong"))
    backend.values = {"kubernetes_image": image, "kubernetes_service_account": name}
    async with open_harness(backend, server) as harness:
        lines: list[str] = []
        with pytest.raises(PrepareFailed, match="cannot be pulled"):
            await harness.manager.prepare(harness.version(echo), lines.append)
        assert any(image in line and "401 Unauthorized" in line for line in lines), lines
        await asyncio.to_thread(
            cluster.kubectl, "apply", *where, "--filename", "-", stdin=secret(REGISTRY.password)
        )
        container = await harness.start_ready(harness.version(echo))
        assert await ask(container, "x") == ["x"]
        await harness.manager.stop(container.container_id, 1.0)
    backend.values = {}


async def test_images_of_versions_are_built_pushed_and_pulled(
    backend_and_server, cluster, tmp_path: Path
):
    if reason := why_no_registry():
        pytest.skip(reason)
    backend, server = backend_and_server
    name = f"t{secrets.token_hex(3)}"
    where = ("--namespace", backend.namespace)
    cluster.kubectl(
        "create", "secret", "docker-registry", name, *where, "--docker-server", REGISTRY.address,
        "--docker-username", REGISTRY.user, "--docker-password", REGISTRY.password,
    )  # fmt: skip
    account = {
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name},
        "imagePullSecrets": [{"name": name}],
    }  # fmt: skip
    cluster.kubectl("apply", *where, "--filename", "-", stdin=json.dumps(account))
    backend.values = {
        "docker_registry": f"{REGISTRY.address}/{name}",
        "docker_registry_user": REGISTRY.user,
        "docker_registry_password": REGISTRY.password,
        "kubernetes_service_account": name,
    }
    async with open_harness(backend, server) as harness:
        container = await harness.start_ready(harness.version(echo))
        assert await ask(container, "x") == ["x"]
        pod = cluster.json("get", "pod", container.container_id, *where)
        assert pod["spec"]["containers"][0]["image"].startswith(f"{REGISTRY.address}/{name}/")
        assert "initContainers" not in pod["spec"]
        await harness.manager.stop(container.container_id, 1.0)
        await harness.manager.sweep(lambda: [])
    backend.values = {}
