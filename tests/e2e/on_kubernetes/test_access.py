"""Access to a cluster on Kubernetes: clients, networks, permissions, tokens and logins."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import skysail
from skysail.settings import CLUSTER_FILE
from skysail_testing.commands import skysail_command
from skysail_testing.kubernetes_clusters import kubernetes_cluster
from skysail_testing.kubernetes_traffic import assert_all_answered, soon, steady
from skysail_testing.skysail_on_kubernetes import OnKubernetes, flags

pytestmark = pytest.mark.kubernetes


def test_clients_and_commands_find_the_cluster_by_its_data_directory(cluster, monkeypatch):
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(cluster.data_dir))
    with skysail.Client() as client:
        # The address is a node port, not the address within the cluster.
        assert client.get_query_addr() == cluster.http
        assert list(client.predict("app", [1, 2, 3]).output) == [2, 4, 6]
        assert client.status().container_manager == "kubernetes"
    status = skysail_command("status")
    assert "kubernetes" in status.stdout
    assert "m:1/1" in status.stdout
    assert "2" in skysail_command("predict", "app", "[1, 2, 3]").stdout


@pytest.mark.parametrize("component", ["management", "frontend", "store"])
def test_no_service_restarts_while_the_cluster_starts(cluster, component):
    # This test must precede those that disturb the services.
    statuses = [pod["status"]["containerStatuses"] for pod in cluster.pods(component)]
    assert statuses
    assert {each["restartCount"] for found in statuses for each in found} == {0}


@contextmanager
def forwarded_ports(cluster: OnKubernetes, data_dir: Path) -> Iterator[None]:
    """Run `skysail forward` inside the block."""
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


def test_forwarded_ports_lead_to_the_cluster(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("SKYSAIL_DATA_DIR", str(tmp_path))
    with forwarded_ports(cluster, tmp_path):
        with skysail.Client() as client:
            assert client.endpoint.startswith("127.0.0.1:")
            assert client.get_query_addr().startswith("127.0.0.1:")
            assert list(client.predict("app", [1, 2, 3]).output) == [2, 4, 6]
        assert "kubernetes" in skysail_command("status").stdout
    assert not (tmp_path / CLUSTER_FILE).exists()


# The program prints those of its arguments that it can connect to.
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
def host_outside_the_cluster() -> Iterator[str]:
    """Listen on an address of this machine, which is outside the cluster."""
    with socket.create_server((kubernetes_cluster().node_address, 0)) as server:
        yield "{}:{}".format(*server.getsockname())


def addresses(cluster: OnKubernetes, component: str, port: int) -> list[str]:
    """Return the port of a component by name and address of its Service, and by address of its pod."""
    (pod,) = cluster.ready_pods(component)
    service = cluster.json("get", "service", f"skysail-{component}")
    hosts = (
        f"skysail-{component}.{cluster.namespace}.svc.cluster.local",
        service["spec"]["clusterIP"],
        pod["status"]["podIP"],
    )
    return [f"{host}:{port}" for host in hosts]


def test_pods_reach_only_the_endpoints_they_need(cluster):
    kubernetes = kubernetes_cluster()
    service = kubernetes.json("get", "service", "kubernetes", "--namespace", "default")
    api = kubernetes.json("get", "endpoints", "kubernetes", "--namespace", "default")["subsets"][0]
    dns = kubernetes.json("get", "service", "kube-dns", "--namespace", "kube-system")
    names = [f"{dns['spec']['clusterIP']}:53"]
    artifacts = addresses(cluster, "management", 8006)
    admin = addresses(cluster, "management", 8003)
    store = addresses(cluster, "store", 6379)
    with host_outside_the_cluster() as elsewhere:
        forbidden = [
            f"{service['spec']['clusterIP']}:443",
            f"{api['addresses'][0]['ip']}:{api['ports'][0]['port']}",
            elsewhere,
        ]
        targets = [*artifacts, *admin, *store, *names, *forbidden]
        (management,) = cluster.pod_names("management")
        # Management reaches these targets, which proves that the addresses are right.
        assert {*store, *names, *forbidden} <= set(
            cluster.run_in(management, REACH, *targets).split()
        )
        replica = min(cluster.pod_names("model-server"))
        assert set(cluster.run_in(replica, REACH, *targets).split()) == {*artifacts, *names}
        frontend = min(cluster.pod_names("frontend"))
        assert set(cluster.run_in(frontend, REACH, *targets).split()) == {*admin, *names}


# The program prints the status codes of requests to Kubernetes with the pod's own token.
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


def test_management_has_only_the_permissions_it_needs(cluster):
    # The other tests prove that the shipped role is enough.
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


def test_a_registry_login_applies_to_all_pods_and_survives_up(cluster, client):
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
    # The second `up` keeps pods that need no change.
    assert {name: cluster.pod_names(name) for name in before} == before
