"""What only replicas on Kubernetes promise; see test_container_managers for what all do."""

import asyncio
import base64
import json
import secrets
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
    Hand,
    KubernetesBackend,
    ask,
    opened,
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
async def world(tmp_path: Path) -> AsyncIterator[tuple[KubernetesBackend, ArtifactServer]]:
    async with running_backend("kubernetes", tmp_path / "d") as world:
        yield world


@pytest.fixture
async def hand(world) -> AsyncIterator[Hand]:
    async with opened(*world) as hand:
        yield hand


@pytest.fixture
def cluster(world) -> KubernetesCluster:
    return kubernetes_cluster()


def echo(texts):
    return list(texts)


async def said(hand: Hand, container: Container, is_it: Callable[[Container], bool]) -> Container:
    """Return a container when its report satisfies the condition."""
    end = monotonic() + 30
    while monotonic() < end:
        for box in hand.seen:
            if box.container_id == container.container_id and is_it(box):
                return box
        async with hand._changed:
            await asyncio.wait_for(hand._changed.wait(), 30)
    raise AssertionError(f"never reported; last {hand.seen[-1:]}")


def deployments(hand: Hand) -> list[dict]:
    backend = hand.backend
    assert isinstance(backend, KubernetesBackend)
    return backend.cluster.json(
        "get", "deployments", "--namespace", backend.namespace,
        "--selector", f"skysail.ai/cluster={backend.cluster_name}",
    )["items"]  # fmt: skip


async def test_replicas_of_a_version_are_pods_of_one_deployment(hand: Hand, cluster):
    spec = hand.version(echo)
    first, second = await asyncio.gather(hand.start_ready(spec), hand.start_ready(spec, 1))
    (found,) = await asyncio.to_thread(deployments, hand)
    assert found["spec"]["replicas"] == 2
    pod = cluster.json("get", "pod", first.container_id, "--namespace", hand.backend.namespace)
    assert pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
    assert pod["spec"]["automountServiceAccountToken"] is False
    # Whichever Kubernetes would choose, the one that is meant ends.
    await hand.manager.stop(first.container_id, 5.0)
    assert [box.container_id for box in await hand.live()] == [second.container_id]
    (found,) = await asyncio.to_thread(deployments, hand)
    assert found["spec"]["replicas"] == 1
    assert await ask(second, "x") == ["x"]
    await hand.manager.stop(second.container_id, 5.0)
    await hand.manager.sweep(lambda: [spec])
    assert await asyncio.to_thread(deployments, hand) == []


async def test_missing_image_is_reported_within_seconds(world):
    backend, server = world
    backend.values = {"kubernetes_image": "localhost:1/no-such-image:1"}
    begin = time.monotonic()
    told: dict[str, float] = {}
    async with opened(backend, server) as hand:
        with pytest.raises(PrepareFailed, match="cannot be pulled"):
            await hand.manager.prepare(
                hand.version(echo), lambda line: told.setdefault(line, time.monotonic() - begin)
            )
        assert await hand.live() == []
    (seconds,) = [at for line, at in told.items() if "connection refused" in line][:1]
    assert seconds < 10, told


async def test_unschedulable_replica_is_reported_within_seconds(hand: Hand):
    started = await hand.start(hand.version(echo), cpus=1000.0)
    told = await said(hand, started, lambda box: bool(box.reason))
    assert "no node can hold it" in told.reason
    assert "Insufficient cpu" in told.reason
    await hand.manager.stop(started.container_id, 0.0)


async def test_out_of_memory_reason_names_the_limit(world):
    def hoards(texts):
        return [str(len(b"x" * (int(text) * 1024 * 1024))) for text in texts]

    backend, server = world
    backend.values = {"kubernetes_memory_mib": 200}
    async with opened(backend, server) as hand:
        container = await hand.start_ready(hand.version(hoards))
        assert await ask(container, "10") == [str(10 * 1024**2)]
        asking = asyncio.create_task(ask(container, "400"))
        failed = await hand.ended(container)
        assert failed.reason == "ran out of memory: its limit is 200 MiB"
        assert not failed.is_permanent
        await asyncio.gather(asking, return_exceptions=True)


async def test_deleted_pod_fails_at_once_and_its_replica_can_restart(hand: Hand, cluster):
    def slowly(texts):
        import time

        print("at work", flush=True)
        time.sleep(2)
        return list(texts)

    spec = hand.version(slowly)
    container = await hand.start_ready(spec)
    asking = asyncio.create_task(ask(container, "x"))
    async for line in hand.manager.logs(container.container_id, 100, follow=True):
        if "at work" in line:
            break
    begin = monotonic()
    await asyncio.to_thread(
        cluster.kubectl, "delete", "pod", container.container_id, "--wait=false",
        "--namespace", hand.backend.namespace,
    )  # fmt: skip
    failed = await hand.ended(container)
    assert monotonic() - begin < 2
    assert failed.state is ReplicaState.FAILED
    assert failed.reason == "its pod was deleted"
    again = await hand.start_ready(spec)
    assert again.container_id != container.container_id
    # The deleted pod finishes its query.
    assert await asking == ["x"]
    assert [box.container_id for box in await hand.live()] == [again.container_id]


async def test_eviction_that_leaves_no_ready_replica_is_rejected(hand: Hand, cluster):
    spec = hand.version(echo)
    first, second = await asyncio.gather(hand.start_ready(spec), hand.start_ready(spec, 1))

    def evict(container: Container) -> subprocess.CompletedProcess[str]:
        eviction = {
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": container.container_id, "namespace": hand.backend.namespace},
        }  # fmt: skip
        path = f"/api/v1/namespaces/{hand.backend.namespace}/pods/{container.container_id}/eviction"
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
    failed = await hand.ended(first)
    assert "its pod is removed" in failed.reason
    refused = await asyncio.to_thread(evict, second)
    assert "disruption budget" in refused.stderr
    assert await ask(second, "x") == ["x"]
    # The eviction succeeds after another replica is ready.
    await hand.start_ready(spec)
    assert (await asyncio.to_thread(evict, second)).returncode == 0
    await hand.ended(second)


async def test_outside_scale_is_corrected(hand: Hand, cluster):
    spec = hand.version(echo)
    container = await hand.start_ready(spec)
    (found,) = await asyncio.to_thread(deployments, hand)
    where = (found["metadata"]["name"], "--namespace", hand.backend.namespace)
    await asyncio.to_thread(cluster.kubectl, "scale", "deployment", *where, "--replicas=3")
    await hand.manager.sweep(lambda: [spec])
    (found,) = await asyncio.to_thread(deployments, hand)
    assert found["spec"]["replicas"] == 1
    assert await ask(container, "x") == ["x"]
    # A deleted Deployment is created again.
    await asyncio.to_thread(cluster.kubectl, "delete", "deployment", *where, "--wait=false")
    await hand.ended(container)
    again = await hand.start_ready(spec)
    assert await ask(again, "x") == ["x"]


async def test_clusters_in_a_namespace_are_independent(world, tmp_path: Path):
    async with running_backend("kubernetes", tmp_path / "other") as other_world:
        async with opened(*world) as hand, opened(*other_world) as other:
            mine, theirs = await asyncio.gather(
                hand.start_ready(hand.version(echo)), other.start_ready(other.version(echo))
            )
            assert [each.container_id for each in await hand.live()] == [mine.container_id]
            await hand.manager.stop(theirs.container_id, 0.0)
            with pytest.raises(SkysailError, match="no log of"):
                await hand.log(theirs)
            await hand.manager.stop(mine.container_id, 5.0)
            await hand.manager.sweep(lambda: [])
            assert await asyncio.to_thread(deployments, hand) == []
            assert await ask(theirs, "x") == ["x"]


async def test_a_cluster_is_reached_through_a_proxy(world, cluster):
    backend, server = world
    command = ["kubectl", "--kubeconfig", str(cluster.config), "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        address = proxy.stdout.readline().split()[-1]
        backend.values = {"kubernetes_proxy_addr": address}
        try:
            async with opened(backend, server) as hand:
                container = await hand.start_ready(hand.version(echo))
                assert await ask(container, "x") == ["x"]
                await hand.manager.stop(container.container_id, 1.0)
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


async def test_missing_rule_is_reported_with_verb_and_resource(world, cluster, tmp_path):
    backend, _ = world
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


async def test_packages_need_a_volume_and_no_local_files(world, tmp_path: Path):
    backend, server = world
    backend.values = {"kubernetes_packages_claim": ""}
    async with opened(backend, server) as hand:
        spec = hand.version(echo, requirements=["some-package==1.0"])
        with pytest.raises(PrepareFailed, match="kubernetes-packages-claim"):
            await hand.manager.prepare(spec, lambda line: None)
    backend.values = {}
    async with opened(backend, server) as hand:
        spec = hand.version(echo, requirements=[f"{tmp_path}/own-1.0-py3-none-any.whl"])
        with pytest.raises(PrepareFailed, match=r"own-1\.0-py3-none-any\.whl, a file that pods"):
            await hand.manager.prepare(spec, lambda line: None)


async def test_an_image_of_a_private_registry_needs_the_right_secret(world, cluster):
    if reason := why_no_registry():
        pytest.skip(reason)
    backend, server = world
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
    async with opened(backend, server) as hand:
        lines: list[str] = []
        with pytest.raises(PrepareFailed, match="cannot be pulled"):
            await hand.manager.prepare(hand.version(echo), lines.append)
        assert any(image in line and "401 Unauthorized" in line for line in lines), lines
        await asyncio.to_thread(
            cluster.kubectl, "apply", *where, "--filename", "-", stdin=secret(REGISTRY.password)
        )
        container = await hand.start_ready(hand.version(echo))
        assert await ask(container, "x") == ["x"]
        await hand.manager.stop(container.container_id, 1.0)
    backend.values = {}


async def test_images_of_versions_are_built_pushed_and_pulled(world, cluster, tmp_path: Path):
    if reason := why_no_registry():
        pytest.skip(reason)
    backend, server = world
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
    async with opened(backend, server) as hand:
        container = await hand.start_ready(hand.version(echo))
        assert await ask(container, "x") == ["x"]
        pod = cluster.json("get", "pod", container.container_id, *where)
        assert pod["spec"]["containers"][0]["image"].startswith(f"{REGISTRY.address}/{name}/")
        assert "initContainers" not in pod["spec"]
        await hand.manager.stop(container.container_id, 1.0)
        await hand.manager.sweep(lambda: [])
    backend.values = {}
