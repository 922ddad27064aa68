"""A cluster on Kubernetes, as its users and its operators meet it."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

import skysail
from skysail.settings import CLUSTER_FILE
from skysail_testing.clusters import skysail_command
from skysail_testing.container_managers import make_wheel, portable
from skysail_testing.kubernetes_clusters import kubernetes_cluster
from skysail_testing.processes import eventually
from skysail_testing.skysail_on_kubernetes import (
    OnKubernetes,
    flags,
    named_after,
    new_name,
    objects_in,
    skysail_on_kubernetes,
)
from skysail_testing.traffic import Traffic, traffic

pytestmark = pytest.mark.kubernetes

ROW = np.ones((1, 3))
# By value: the module of the tests needs packages that the image has not.
double = portable(lambda x: x * 2)
triple = portable(lambda x: x * 3)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnKubernetes]:
    with pytest.MonkeyPatch.context() as patch:
        # For commands, which find it as those of a user do.
        patch.setenv("KUBECONFIG", str(kubernetes_cluster().config))
        with skysail_on_kubernetes(tmp_path_factory.mktemp("k"), new_name()) as cluster:
            with cluster.client() as client:
                client.deploy(double, name="m", version="1", example=ROW, num_replicas=2)
                client.register_application("app", default_output=[0, 0, 0], slo_ms=20_000)
                client.link("app", "m")
            yield cluster


@pytest.fixture(scope="module")
def client(cluster: OnKubernetes) -> Iterator[skysail.Client]:
    with cluster.client() as client:
        yield client


def soon(condition: Callable[[], object], what: str) -> object:
    """Return the first true value of a condition; the machine may be busy."""
    return eventually(condition, 60, what)


def ready(client: skysail.Client, model: str = "m", version: str = "1") -> set[str]:
    """Return the pods of the replicas that take batches."""
    found = client.describe_version(model, version)
    return {each.container_id for each in found.replicas if each.state == "READY"}


def reasons(client: skysail.Client, model: str, version: str) -> list[str]:
    """Return what `status` tells of replicas."""
    versions = [
        each
        for found in client.status().models
        for each in found.versions
        if (each.model, each.version) == (model, version)
    ]
    return [each.reason for found in versions for each in found.replicas]


def steady(client: skysail.Client) -> AbstractContextManager[Traffic]:
    """Ask all along, and leave most of this machine to the cluster."""
    return traffic(client, "app", [1, 2, 3], callers=3, pause_s=0.01)


def assert_all_answered(seen: Traffic) -> None:
    assert set(seen.outcomes) == {"OK"}, (seen.outcomes, seen.problems[:3])


def test_clients_and_commands_find_it_by_its_data_directory(cluster, monkeypatch):
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(cluster.data_dir))
    with skysail.Client() as client:
        # At the port of a node, not where frontends are within the cluster.
        assert client.get_query_addr() == cluster.http
        assert list(client.predict("app", [1, 2, 3]).output) == [2, 4, 6]
        assert client.status().container_manager == "kubernetes"
    status = skysail_command("status")
    assert "kubernetes" in status.stdout
    assert "m:1/1" in status.stdout
    assert "2" in skysail_command("predict", "app", "[1, 2, 3]").stdout


@pytest.mark.parametrize("component", ["management", "frontend", "store"])
def test_whatever_starts_first_waits_for_the_others(cluster, component):
    # Before any test that disturbs them.
    statuses = [pod["status"]["containerStatuses"] for pod in cluster.pods(component)]
    assert statuses
    assert {each["restartCount"] for found in statuses for each in found} == {0}


def test_versions_and_their_number_change_under_load(cluster, client):
    with steady(client) as seen:
        client.deploy(triple, name="m", version="2", example=ROW)
        seen.wait_for_more(20)
        assert client.rollback("m") == "1"
        seen.wait_for_more(20)
        client.promote("m", "2")
        client.rollback("m")
        client.undeploy("m", "2", force=True)
        client.scale("m", 3, version="1")
        soon(lambda: len(ready(client)) == 3, "three replicas")
        client.scale("m", 1, version="1")
        soon(lambda: len(cluster.pods("model-server")) == 1, "one replica")
        seen.wait_for_more(20)
        client.scale("m", 2, version="1")
        soon(lambda: len(ready(client)) == 2, "two replicas")
    assert_all_answered(seen)
    assert {"1", "2"} <= set(seen.versions)


def test_what_goes_wrong_in_a_pod_is_told_to_whoever_deploys(client, monkeypatch):
    def needs_what_is_not_there(x):
        import os

        if "SKY_TEST_HERE" not in os.environ:
            import no_such_module  # noqa: F401
        return x

    monkeypatch.setenv("SKY_TEST_HERE", "1")
    with pytest.raises(skysail.errors.DeployFailed) as caught:
        client.deploy(portable(needs_what_is_not_there), name="m", version="bad", example=ROW)
    assert "No module named 'no_such_module'" in caught.value.log_tail
    assert client.predict("app", [1, 2, 3]).version == "1"


def test_a_version_that_no_node_can_hold_is_told_within_seconds(client):
    begin = time.monotonic()
    told: dict[str, float] = {}

    def note(event: skysail.DeployEvent) -> None:
        told.setdefault(event.message, time.monotonic() - begin)

    with pytest.raises(skysail.errors.DeployFailed, match="no node can hold it"):
        client.deploy(
            double,
            name="m",
            version="huge",
            example=ROW,
            cpus=1000,
            start_timeout_s=4,
            on_event=note,
        )
    (seconds,) = [at for text, at in told.items() if "Insufficient cpu" in text][:1]
    assert seconds < 10, told
    assert client.predict("app", [1, 2, 3]).version == "1"


@contextmanager
def image_of_replicas(cluster: OnKubernetes, client: skysail.Client, image: str) -> Iterator[None]:
    """Have management make replicas of another image inside the `with` block."""
    name = "SKYSAIL_MANAGEMENT_KUBERNETES_IMAGE"
    settings = ("configmap", "skysail-settings")
    before = cluster.json("get", *settings)["data"][name]
    try:
        for value in (image, before):
            pods = ready(client)
            change = json.dumps({"data": {name: value}})
            cluster.kubectl("patch", *settings, "--type", "merge", "--patch", change)
            (leader,) = cluster.leaders()
            cluster.kubectl("rollout", "restart", "deployment/skysail-management")
            soon(lambda leader=leader: cluster.leaders() - {leader}, "another leads")
            soon(lambda pods=pods: knows_its_replicas(client, pods), "it knows its replicas")
            if value == image:
                yield
    finally:
        change = json.dumps({"data": {name: before}})
        cluster.kubectl("patch", *settings, "--type", "merge", "--patch", change)


def test_an_image_that_is_missing_is_told_while_the_old_version_serves(cluster, client):
    told: dict[str, float] = {}
    with steady(client) as seen:
        with image_of_replicas(cluster, client, "localhost:1/no-such-image:1"):
            begin = time.monotonic()
            with pytest.raises(skysail.errors.DeployFailed, match="cannot be pulled"):
                client.deploy(
                    double, name="m", version="imageless", example=ROW, start_timeout_s=4,
                    on_event=lambda event: told.setdefault(event.message, time.monotonic() - begin),
                )  # fmt: skip
            seconds = min(at for text, at in told.items() if "connection refused" in text)
            assert seconds < 10, told
    assert_all_answered(seen)
    assert client.predict("app", [1, 2, 3]).version == "1"


def test_a_version_keeps_its_image_when_the_new_one_has_another_python(cluster, client):
    noted = ("configmap", "skysail-default-packages-images")
    pythons = json.loads(cluster.json("get", *noted)["data"]["pythons"])
    # As a probe of it would answer; no node needs to have it.
    other = "localhost:1/model-server-of-another-python:1"
    data = {"pythons": json.dumps({**pythons, other: "3.7.16"})}
    change = json.dumps({"data": data})
    cluster.kubectl("patch", *noted, "--type", "merge", "--patch", change)
    with image_of_replicas(cluster, client, other):
        gone = min(ready(client))
        cluster.kubectl("delete", "pod", gone, "--wait=false")
        soon(lambda: len(ready(client) - {gone}) == 2, "another in its place")
        client.scale("m", 3)
        soon(lambda: len(ready(client)) == 3, "one more")
        images = {pod["spec"]["containers"][0]["image"] for pod in cluster.pods("model-server")}
        assert images == set(pythons)
        client.scale("m", 2)
        soon(lambda: len(ready(client)) == 2, "two replicas")
        with pytest.raises(skysail.errors.DeployFailed, match=r"has Python 3\.7"):
            client.deploy(portable(lambda x: x), name="new", version="1", example=ROW)


def test_a_wrong_password_of_the_store_stops_a_rollout_at_the_first_pod(cluster, client):
    secret = ("secret", "skysail-store")
    right = cluster.json("get", *secret)["data"]["password"]
    pods = ready(client)

    def set_password(value: str) -> None:
        change = json.dumps({"data": {"password": value}})
        cluster.kubectl("patch", *secret, "--type", "merge", "--patch", change)

    (leader,) = cluster.leaders()
    # Beside the one that works, as in the overlay `production`.
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    change = json.dumps({"spec": {"strategy": strategy}})
    cluster.kubectl("patch", "deployment/skysail-management", "--patch", change)
    try:
        set_password("d3Jvbmc=")
        cluster.kubectl("rollout", "restart", "deployment/skysail-management")
        (new,) = soon(lambda: cluster.pod_names("management") - {leader}, "a new pod")
        soon(lambda: "refuses" in logs_of(cluster, new), "it says why")
        assert [pod["metadata"]["name"] for pod in cluster.ready_pods("management")] == [leader]
        assert cluster.leaders() == {leader}
    finally:
        set_password(right)
        cluster.kubectl("rollout", "restart", "deployment/skysail-management")
        cluster.kubectl("rollout", "status", "deployment/skysail-management", "--timeout=90s")
        change = json.dumps({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}})
        cluster.kubectl("patch", "deployment/skysail-management", "--patch", change)
    soon(lambda: knows_its_replicas(client, pods), "another leads")


def logs_of(cluster: OnKubernetes, pod: str) -> str:
    """Return what a pod has written; nothing while it does not run yet."""
    try:
        return cluster.kubectl("logs", pod)
    except AssertionError:
        return ""


def test_a_pod_that_is_deleted_under_load_loses_no_query(cluster, client):
    before = ready(client)
    with steady(client) as seen:
        cluster.kubectl("delete", "pod", min(before), "--wait=false")
        soon(
            lambda: len(ready(client)) == 2 and len(ready(client) - before) == 1,
            "another in its place",
        )
        seen.wait_for_more(20)
    assert_all_answered(seen)


@contextmanager
def cordoned_node() -> Iterator[None]:
    """Have the only node take no more pods."""
    kubernetes = kubernetes_cluster()
    (node,) = kubernetes.json("get", "nodes")["items"]
    name = node["metadata"]["name"]
    kubernetes.kubectl("cordon", name)
    try:
        yield
    finally:
        kubernetes.kubectl("uncordon", name)


def test_a_node_is_drained_of_one_replica_at_a_time(cluster, client):
    first, second = sorted(ready(client))
    with steady(client) as seen:
        with cordoned_node():
            assert cluster.evict(first)
            soon(lambda: ready(client) == {second}, "the first goes")
            # Nothing can take its place, so that the last one must stay.
            assert not cluster.evict(second)
        soon(lambda: len(ready(client)) == 2, "another in its place")
        assert soon(lambda: cluster.evict(second), "the second may go")
        soon(lambda: len(ready(client) - {first, second}) == 2, "another in its place, too")
        seen.wait_for_more(20)
    assert_all_answered(seen)


def knows_its_replicas(client: skysail.Client, pods: set[str]) -> bool:
    try:
        return ready(client) == pods
    except skysail.SkysailError:
        return False


def test_management_that_dies_under_load_takes_its_replicas_over(cluster, client):
    replicas = ready(client)
    (leader,) = cluster.leaders()
    with steady(client) as seen:
        # As when its node is lost: it lets go of nothing.
        cluster.kubectl("delete", "pod", leader, "--force", "--grace-period=0")
        soon(lambda: cluster.leaders() - {leader}, "another leads")
        soon(lambda: knows_its_replicas(client, replicas), "it knows its replicas")
        seen.wait_for_more(20)
    assert_all_answered(seen)
    assert cluster.pod_names("model-server") == replicas
    assert client.describe_model("m").current_version == "1"


def test_a_standby_leads_when_the_leader_goes(cluster, client):
    replicas = ready(client)
    (leader,) = cluster.leaders()
    cluster.kubectl("scale", "deployment/skysail-management", "--replicas=2")
    soon(lambda: len(cluster.ready_pods("management")) == 2, "a standby")
    (standby,) = cluster.pod_names("management") - {leader}
    assert cluster.leaders() == {leader}
    with steady(client) as seen:
        begin = time.monotonic()
        cluster.kubectl("delete", "pod", leader, "--wait=false")
        soon(lambda: cluster.leaders() == {standby}, "the standby leads")
        soon(lambda: knows_its_replicas(client, replicas), "it knows its replicas")
        assert time.monotonic() - begin < 10
        seen.wait_for_more(20)
    assert_all_answered(seen)
    soon(lambda: len(cluster.ready_pods("management")) == 2, "another standby")
    # It works, and not only for those who ask.
    cluster.kubectl("delete", "pod", min(replicas), "--wait=false")
    soon(lambda: len(ready(client) - {min(replicas)}) == 2, "another in its place")
    assert cluster.leaders() == {standby}
    cluster.kubectl("scale", "deployment/skysail-management", "--replicas=1")
    soon(lambda: len(cluster.leaders()) == 1 == len(cluster.pods("management")), "one")
    soon(lambda: knows_its_replicas(client, cluster.pod_names("model-server")), "it leads")


# Prints which of its arguments it reaches, by name or by address.
REACH = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def is_reached(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True

with ThreadPoolExecutor(32) as threads:
    reached = threads.map(is_reached, sys.argv[1:])
    print(*(target for target, is_it in zip(sys.argv[1:], reached) if is_it))
"""


@contextmanager
def outside() -> Iterator[str]:
    """Listen on this machine, where pods that may reach what is not of the cluster reach it."""
    with socket.create_server((kubernetes_cluster().node_address, 0)) as server:
        yield "{}:{}".format(*server.getsockname())


def addresses(cluster: OnKubernetes, component: str, port: int) -> list[str]:
    """Return where the port of a component is: at its Service by name and by address, and at its pod."""
    (pod,) = cluster.ready_pods(component)
    service = cluster.json("get", "service", f"skysail-{component}")
    hosts = (
        f"skysail-{component}.{cluster.namespace}.svc.cluster.local",
        service["spec"]["clusterIP"],
        pod["status"]["podIP"],
    )
    return [f"{host}:{port}" for host in hosts]


def test_pods_reach_what_they_need_and_nothing_else(cluster):
    kubernetes = kubernetes_cluster()
    service = kubernetes.json("get", "service", "kubernetes", "--namespace", "default")
    api = kubernetes.json("get", "endpoints", "kubernetes", "--namespace", "default")["subsets"][0]
    dns = kubernetes.json("get", "service", "kube-dns", "--namespace", "kube-system")
    names = [f"{dns['spec']['clusterIP']}:53"]
    artifacts = addresses(cluster, "management", 8006)
    admin = addresses(cluster, "management", 8003)
    store = addresses(cluster, "store", 6379)
    with outside() as elsewhere:
        forbidden = [
            f"{service['spec']['clusterIP']}:443",
            f"{api['addresses'][0]['ip']}:{api['ports'][0]['port']}",
            elsewhere,
        ]
        targets = [*artifacts, *admin, *store, *names, *forbidden]
        (management,) = cluster.pod_names("management")
        # The addresses are right: who may, reaches them.
        assert {*store, *names, *forbidden} <= set(
            cluster.run_in(management, REACH, *targets).split()
        )
        replica = min(cluster.pod_names("model-server"))
        assert set(cluster.run_in(replica, REACH, *targets).split()) == {*artifacts, *names}
        frontend = min(cluster.pod_names("frontend"))
        assert set(cluster.run_in(frontend, REACH, *targets).split()) == {*admin, *names}


# Prints how Kubernetes answers to requests of this pod, by its own token.
ASK = """
import ssl, sys, urllib.error, urllib.request

directory = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=f"{directory}/ca.crt")
token = open(f"{directory}/token").read()
for word in sys.argv[1:]:
    method, _, path = word.partition(" ")
    request = urllib.request.Request(f"https://kubernetes.default.svc{path}", method=method)
    request.add_header("Authorization", f"Bearer {token}")
    try:
        print(urllib.request.urlopen(request, context=context).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""

MAY = {
    "pods": {"list", "watch", "create", "patch", "delete"},
    "pods/log": {"get"},
    "deployments": {"get", "list", "create", "patch", "delete"},
    "deployments/scale": {"patch"},
    "poddisruptionbudgets": {"create", "patch"},
    "secrets": {"create", "patch"},
    "configmaps": {"get", "list", "create", "patch", "delete"},
    "leases": {"get", "update"},
}


def test_management_may_do_what_it_needs_in_its_namespace_and_nothing_else(cluster):
    # All other tests are done with the shipped role, so that it is enough.
    own = cluster.may("skysail-management", cluster.namespace)
    assert own == MAY
    for account in ("management", "frontend", "store", "model-server"):
        assert cluster.may(f"skysail-{account}", "default") == {}
        if account != "management":
            assert cluster.may(f"skysail-{account}", cluster.namespace) == {}
    (management,) = cluster.pod_names("management")
    replica = min(cluster.pod_names("model-server"))
    here = f"/api/v1/namespaces/{cluster.namespace}"
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{cluster.namespace}/roles"
    answers = cluster.run_in(
        management, ASK, f"GET {here}/pods", f"GET {here}/secrets", f"GET {here}/secrets/skysail-store",
        f"POST {here}/pods/{replica}/exec?command=true", f"POST {roles}", "GET /api/v1/pods",
        "GET /api/v1/namespaces/default/configmaps", "GET /api/v1/nodes",
    )  # fmt: skip
    assert answers.split() == ["200", *["403"] * 7]


def test_only_management_has_a_token(cluster):
    for component in ("management", "frontend", "store", "model-server"):
        for pod in cluster.pods(component):
            every = (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
            mounts = [mount["mountPath"] for each in every for mount in each["volumeMounts"]]
            has_token = any("serviceaccount" in path for path in mounts)
            assert has_token == (component == "management"), pod["metadata"]["name"]


def test_a_package_is_installed_once_for_all_versions_that_need_it(cluster, client, tmp_path):
    def answer(x):
        import skytestwheel

        return [[each + skytestwheel.ANSWER for each in row] for row in x]

    wheel = make_wheel(tmp_path, "skytestwheel", "ANSWER = 40\n")
    package = f"skytestwheel @ {kubernetes_cluster().serve(tmp_path)}/{wheel.name}"
    # Built here, where it is not installed.
    options = {"name": "p", "input_type": "doubles", "pkgs_to_install": [package]}
    lines: list[str] = []

    def note(event: skysail.DeployEvent) -> None:
        lines.append(event.message)

    client.deploy(portable(answer), version="1", on_event=note, **options)
    assert any("Successfully installed skytestwheel-1.0" in line for line in lines)
    assert list(client.predict("p", [1.0, 2.0]).output) == [41, 42]
    # What is there needs neither pip nor the wheel.
    wheel.unlink()
    lines.clear()
    client.deploy(portable(answer), version="2", on_event=note, **options)
    assert any("is ready" in line and "environment" in line for line in lines)
    assert client.predict("p", [1.0, 2.0]).version == "2"
    assert cluster.pods("installer") == []
    client.undeploy("p", "1", force=True)
    client.undeploy("p", "2", force=True)


def test_what_ran_out_of_memory_says_so_while_the_old_version_serves(client):
    def hoards(x):
        import mmap

        for row in x:
            # Shared memory: other memory has an end for the process before it has one for its container.
            with mmap.mmap(-1, int(row[0] + 1) * 1024 * 1024) as memory:
                for _ in range(int(row[0])):
                    memory.write(b"x" * 1024 * 1024)
        return x

    client.deploy(
        portable(hoards), name="m", version="hoards", example=ROW, promote=False, memory_mib=200
    )
    with steady(client) as seen:
        with pytest.raises(skysail.SkysailError):
            client.predict("m", [400.0, 0.0, 0.0], version="hoards", timeout_s=1)
        (reason,) = soon(
            lambda: [each for each in reasons(client, "m", "hoards") if "out of memory" in each],
            "status tells",
        )
        # Where it is looked at later, it is another's, which was started again.
        assert reason.endswith("ran out of memory: its limit is 200 MiB")
        soon(lambda: len(ready(client, "m", "hoards")) == 1, "it is started again")
    assert_all_answered(seen)
    client.undeploy("m", "hoards", force=True)


def test_a_crash_loop_is_told_while_the_old_version_serves(client):
    def ends_soon(x):
        import os
        import threading

        if os.environ.get("SKYSAIL_REPLICA_INDEX"):
            print("the end is near", flush=True)
            threading.Timer(1.5, os._exit, [7]).start()
        return x

    client.deploy(portable(ends_soon), name="m", version="ends", example=ROW, promote=False)
    with steady(client) as seen:

        def crashed() -> list[skysail.descriptions.Replica]:
            found = client.describe_version("m", "ends").replicas
            return [each for each in found if each.num_restarts >= 2 and each.reason]

        replicas = soon(crashed, "status tells")
    assert_all_answered(seen)
    assert "status 7" in replicas[0].reason
    client.undeploy("m", "ends", force=True)


@contextmanager
def forwarded(cluster: OnKubernetes, data_dir: Path) -> Iterator[None]:
    """Have ports of this machine lead to a cluster, as on a machine that does not reach it."""
    ports = [
        word
        for name in ("http", "grpc", "metrics", "management")
        for word in (f"--{name}-port", "0")
    ]
    command = [
        sys.executable, "-m", "skysail", "forward", "--data-dir", str(data_dir),
        "--namespace", cluster.namespace, "--cluster", cluster.name, *ports,
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        try:
            note = data_dir / CLUSTER_FILE
            soon(lambda: note.exists() or process.poll() is not None, "ports are forwarded")
            assert process.poll() is None, process.stderr.read().decode()
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def test_forwarded_ports_lead_to_it_from_elsewhere(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(tmp_path))
    with forwarded(cluster, tmp_path):
        with skysail.Client() as client:
            assert client.endpoint.startswith("127.0.0.1:")
            assert client.get_query_addr().startswith("127.0.0.1:")
            assert list(client.predict("app", [1, 2, 3]).output) == [2, 4, 6]
        assert "kubernetes" in skysail_command("status").stdout
    assert not (tmp_path / CLUSTER_FILE).exists()


def test_a_login_is_that_of_all_pods_and_stays_with_the_next_up(cluster, client):
    command = [
        sys.executable, "-m", "skysail", "registry", "login", "registry.example:5000",
        "--username", "me", "--password-stdin", "--namespace", cluster.namespace,
    ]  # fmt: skip
    done = subprocess.run(command, input="hush\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "skysail-model-server" in done.stdout
    assert "hush" not in done.stdout + done.stderr
    secret = cluster.json("get", "secret", "skysail-registry")
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    services = ("management", "frontend", "store", "model-server")
    before = {name: cluster.pod_names(name) for name in services if name != "frontend"}
    with steady(client) as seen:
        again = skysail_command("up", *flags(cluster.data_dir, cluster.namespace))
        assert again.returncode == 0, again.stderr
        seen.wait_for_more(20)
    assert_all_answered(seen)
    for name in services:
        account = cluster.json("get", "serviceaccount", f"skysail-{name}")
        assert account["imagePullSecrets"] == [{"name": "skysail-registry"}]
    # What is as it should be is left alone.
    assert {name: cluster.pod_names(name) for name in before} == before


def test_frontends_follow_their_load_and_each_talks_to_every_replica(cluster, client):
    def where(x):
        import os

        return [float(os.environ.get("SKYSAIL_REPLICA_INDEX", "-1")) for _ in x]

    client.deploy(portable(where), name="where", version="1", example=ROW, num_replicas=2)
    with traffic(client, "app", [1, 2, 3], callers=8) as seen:
        soon(lambda: len(cluster.ready_pods("frontend")) >= 2, "the autoscaler adds a frontend")
        for pod in cluster.ready_pods("frontend"):
            endpoint = f"{pod['status']['podIP']}:8001"
            with skysail.Client(cluster.management, query_endpoint=endpoint) as direct:

                def replicas(direct: skysail.Client = direct) -> set[float]:
                    found = direct.predict_batch("where", [[1.0, 2.0, 3.0]] * 8)
                    return {float(each.output) for each in found}

                answered_by: set[float] = set()
                soon(
                    lambda seen=answered_by, ask=replicas: seen.update(ask()) or seen == {0, 1},
                    f"{endpoint} talks to both replicas",
                )
    assert_all_answered(seen)
    client.undeploy("where", "1", force=True)


def deploy_and_ask(cluster: OnKubernetes) -> list[float]:
    with cluster.client() as client:
        client.deploy(triple, name="m", version="1", example=ROW)
        assert client.status().cluster == cluster.name
        assert [each.name for each in client.models()] == ["m"]
        return list(client.predict("m", [1.0, 2.0, 3.0]).output)


@pytest.mark.timeout(300)
def test_clusters_side_by_side_leave_each_other_alone_and_nothing_behind(cluster, client, tmp_path):
    before = objects_in(cluster.namespace)
    namespace = new_name()

    def beside_it() -> None:
        with skysail_on_kubernetes(tmp_path / "b", cluster.namespace, "blue") as blue:
            assert any("blue" in name for name in objects_in(cluster.namespace))
            assert deploy_and_ask(blue) == [3, 6, 9]

    def in_another_namespace() -> None:
        with skysail_on_kubernetes(tmp_path / "o", namespace, keeps_data=True) as other:
            assert deploy_and_ask(other) == [3, 6, 9]
        # Data stay, and nothing that runs.
        kinds = {name.partition("/")[0] for name in objects_in(namespace)}
        assert kinds == {"configmap", "persistentvolumeclaim", "secret", "serviceaccount"}
        # What was deployed comes back.
        with skysail_on_kubernetes(tmp_path / "o", namespace) as other, other.client() as others:
            soon(lambda: others.describe_version("m", "1").num_ready == 1, "it is back")
            assert list(others.predict("m", [1.0, 2.0, 3.0]).output) == [3, 6, 9]
        assert named_after(namespace) == []

    with steady(client) as seen, ThreadPoolExecutor() as threads:
        for each in [threads.submit(beside_it), threads.submit(in_another_namespace)]:
            each.result()
    assert_all_answered(seen)
    # The autoscaler of its own frontends works on.
    left = {name for name in objects_in(cluster.namespace) - before if "frontend" not in name}
    assert left == set()
    assert [name for name in named_after(cluster.namespace) if "blue" in name] == []
