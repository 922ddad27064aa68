"""Leader election of two managements by a Lease of a real Kubernetes cluster."""

import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

import skysail
from skysail import errors
from skysail_testing.kubernetes_clusters import KubernetesCluster, kubernetes_cluster
from skysail_testing.processes import Service, eventually
from skysail_testing.store_servers import StoreServer, embedded_command

pytestmark = pytest.mark.kubernetes

LEASE_S = 6
LEADER = "skysail.ai/leader"
OURS = {
    "app.kubernetes.io/name": "skysail",
    "app.kubernetes.io/component": "management",
    "skysail.ai/cluster": "default",
}


class Place:
    """The namespace, lease, pods, store and data directory of two managements."""

    def __init__(self, cluster: KubernetesCluster, directory: Path, store_url: str) -> None:
        self.cluster = cluster
        self.namespace = cluster.new_namespace()
        self.directory = directory
        self.store_url = store_url
        self.config = directory / "management.json"
        self.bare_config = directory / "bare.json"
        self._apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": "management"},
                "rules": [
                    {
                        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"],
                        "resourceNames": ["lease"], "verbs": ["get", "update"],
                    },
                    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]},
                ],
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": "management"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "management",
                },
                "subjects": [{"kind": "ServiceAccount", "name": "management"}],
            },
            self._account("management"),
            self._account("bare"),
            self._pod("pod-a", **OURS),
            self._pod("pod-b", **OURS),
            self._pod("pod-crashed", **OURS, **{LEADER: "true"}),
            self._pod("pod-other", **{**OURS, "skysail.ai/cluster": "other", LEADER: "true"}),
        )  # fmt: skip
        self._write_config("management", self.config)
        self._write_config("bare", self.bare_config)

    def _apply(self, *objects: dict) -> None:
        bundle = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(bundle))

    @staticmethod
    def _account(name: str) -> dict:
        return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}

    @staticmethod
    def _pod(name: str, **labels: str) -> dict:
        """Return a pod that never runs, because the tests need only its labels."""
        return {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {
                "nodeSelector": {"no": "node"}, "containers": [{"name": "c", "image": "none"}],
            },
        }  # fmt: skip

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl("--namespace", self.namespace, *arguments, stdin=stdin)

    def _write_config(self, account: str, path: Path) -> None:
        """Write a kubeconfig with one context, which uses the account."""
        config = json.loads(self.cluster.kubectl("config", "view", "--raw", "--output", "json"))
        names = {each["name"]: each for each in config["contexts"]}
        current = names[config["current-context"]]["context"]["cluster"]
        (server,) = (each for each in config["clusters"] if each["name"] == current)
        token = self.kubectl("create", "token", account).strip()
        context = {"cluster": current, "user": "it", "namespace": self.namespace}
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "clusters": [server],
            "users": [{"name": "it", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": context}], "current-context": "it",
        }))  # fmt: skip

    def new_lease(self) -> None:
        self.kubectl("delete", "lease", "lease", "--ignore-not-found")
        self._apply(
            {
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": "lease"},
            }
        )  # fmt: skip

    def leaders(self) -> set[str]:
        """Return the pods with the label of a leader, in all clusters."""
        found = self.kubectl("get", "pods", "--selector", f"{LEADER}=true", "--output", "name")
        return {line.removeprefix("pod/") for line in found.split()}

    def holder(self) -> str:
        found = json.loads(self.kubectl("get", "lease", "lease", "--output", "json"))
        return found.get("spec", {}).get("holderIdentity", "")


class Management:
    """A process of management with the identity of a pod."""

    def __init__(self, place: Place, pod: str, *flags: str, config: Path | None = None) -> None:
        # A unique address is known before the ready line, which only a leader prints.
        self.host = "127." + ".".join(str(1 + byte % 250) for byte in secrets.token_bytes(3))
        self.endpoint = f"{self.host}:8003"
        self._environment = {"KUBECONFIG": str(config or place.config)}
        self._flags = [
            "--data-dir", str(place.directory / "data"), "--skysail-redis-url", place.store_url,
            "--host", self.host, "--kubernetes-lease", "lease", "--kubernetes-pod", pod,
            "--kubernetes-lease-s", str(LEASE_S), *flags,
        ]  # fmt: skip
        self.service = Service("skysail_management", self._flags, self._environment)

    @property
    def pid(self) -> int:
        return self.service.process.pid

    def wait_alive(self) -> None:
        eventually(lambda: self.health("skysail.liveness") == "SERVING", what="it is alive")

    def health(self, name: str) -> str:
        with grpc.insecure_channel(self.endpoint) as channel:
            request = health_pb2.HealthCheckRequest(service=name)
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
            except grpc.RpcError as error:
                return error.code().name
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    def health_check(self) -> int:
        """Run the health check of the image and return its exit status."""
        environment = {
            "SKYSAIL_MANAGEMENT_HOST": self.host, "SKYSAIL_MANAGEMENT_DATA_DIR": "/nowhere",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "skysail_management.health_check"],
            env={**os.environ, **environment}, check=False, timeout=30,
        )  # fmt: skip
        return done.returncode


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    directory = tmp_path_factory.mktemp("l")
    store = StoreServer(embedded_command, directory)
    await store.start()
    try:
        yield Place(kubernetes_cluster(), directory, store.url)
    finally:
        store.stop()


@pytest.fixture
def started(place: Place) -> Iterator[list[Management]]:
    """A list of managements, which the fixture stops after the test."""
    place.new_lease()
    started: list[Management] = []
    yield started
    for each in started:
        if each.service.process.poll() is None:
            each.service.process.send_signal(signal.SIGCONT)
            each.service.stop()
        else:
            each.service.wait()


@pytest.fixture
def pair(place: Place, started: list[Management]) -> tuple[Management, Management]:
    """The leader and the standby."""
    started.append(Management(place, "pod-a"))
    started[0].service.wait_ready()
    started.append(Management(place, "pod-b"))
    started[1].wait_alive()
    return started[0], started[1]


def seconds_until_ready(management: Management, timeout_s: float = 30) -> float:
    began = time.monotonic()
    management.service.wait_ready(timeout_s)
    return time.monotonic() - began


def test_one_management_leads_and_the_other_waits(place, pair):
    _, standby = pair
    assert [each.health_check() for each in pair] == [0, 0]
    assert [each.health("") for each in pair] == ["SERVING", "NOT_SERVING"]
    eventually(lambda: standby.health("skysail.readiness") == "SERVING", what="it is ready")
    assert place.holder() == "pod-a"
    # The leader removed the label of the crashed pod but not that of another cluster.
    eventually(lambda: place.leaders() == {"pod-a", "pod-other"}, what="the label is on the leader")
    with skysail.Client(standby.endpoint) as client:
        with pytest.raises(errors.Unavailable, match="another one leads"):
            client.status()
    time.sleep(LEASE_S + 1)
    assert place.holder() == "pod-a"
    assert [each.health("") for each in pair] == ["SERVING", "NOT_SERVING"]


def test_an_orderly_stop_hands_over_within_three_seconds(place, pair):
    leader, standby = pair
    name = f"app-{secrets.token_hex(4)}"
    with skysail.Client(leader.endpoint) as client:
        client.register_application(name)
    eventually(lambda: "pod-a" in place.leaders(), what="the label is on the leader")
    leader.service.process.send_signal(signal.SIGTERM)
    assert seconds_until_ready(standby) < 3
    assert leader.service.wait() == 0
    with skysail.Client(standby.endpoint) as client:
        assert name in [each.name for each in client.applications()]
    eventually(lambda: place.leaders() == {"pod-b", "pod-other"}, what="the label is handed over")
    assert standby.service.stop() == 0
    assert place.holder() == ""
    assert place.leaders() == {"pod-other"}


def test_a_standby_with_a_wrong_password_exits(place, started):
    started.append(Management(place, "pod-a"))
    started[0].service.wait_ready()
    url = place.store_url.replace("unix://", "unix://:wrong@")
    started.append(Management(place, "pod-b", "--skysail-redis-url", url))
    assert started[1].service.wait() == 1
    assert "the store refuses the password" in started[1].service.errors
    assert place.holder() == "pod-a"


def test_a_management_without_the_lease_is_refused_by_the_store(place, started):
    started.append(Management(place, "pod-a"))
    started[0].service.wait_ready()
    flags = ["--data-dir", str(place.directory / "elsewhere"), "--port", "0"]
    other = Service("skysail_management", flags, {"SKYSAIL_REDIS_URL": place.store_url})
    assert other.wait() == 1
    assert "another management owns it" in other.errors
    assert started[0].health("") == "SERVING"


def test_a_standby_stops_on_sigterm(place, pair):
    _, standby = pair
    assert standby.service.stop() == 0
    assert place.holder() == "pod-a"


def test_a_standby_succeeds_a_killed_leader_within_the_lease(place, pair):
    leader, standby = pair
    leader.service.process.kill()
    assert seconds_until_ready(standby) < LEASE_S + 2
    assert place.holder() == "pod-b"
    eventually(lambda: place.leaders() == {"pod-b", "pod-other"}, what="the label moved")


def test_a_pod_with_a_restarted_container_leads_again_at_once(place, started):
    started.append(Management(place, "pod-a"))
    started[0].service.wait_ready()
    started[0].service.process.kill()
    started.append(Management(place, "pod-a"))
    assert seconds_until_ready(started[1]) < LEASE_S


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_leader_without_kubernetes_exits_before_another_leads(place, started, number):
    with kubectl_proxy(place) as (proxy, address):
        leader = Management(
            place, "pod-a", "--kubernetes-proxy-addr", address,
            "--kubernetes-namespace", place.namespace,
        )  # fmt: skip
        started.append(leader)
        leader.service.wait_ready()
        standby = Management(place, "pod-b")
        started.append(standby)
        standby.wait_alive()
        began = time.monotonic()
        proxy.send_signal(number)
        assert leader.service.wait(timeout_s=LEASE_S) == 69
        assert time.monotonic() - began < LEASE_S * 2 / 3 + 1
        assert "the lease was not renewed in time; exiting at once" in leader.service.errors
        # The standby does not serve before the leader has ended.
        assert standby.health("") == "NOT_SERVING"
        seconds_until_ready(standby)
        assert time.monotonic() - began < LEASE_S + 3


def test_a_frozen_leader_exits_when_it_resumes(place, pair):
    leader, standby = pair
    os.kill(leader.pid, signal.SIGSTOP)
    eventually(lambda: place.holder() == "pod-b", what="the standby has the lease")
    # The frozen leader still locks the data directory, so the standby must wait.
    time.sleep(1)
    assert standby.health("") == "NOT_SERVING"
    assert standby.health("skysail.liveness") == "SERVING"
    os.kill(leader.pid, signal.SIGCONT)
    assert leader.service.wait(timeout_s=2) == 69
    assert seconds_until_ready(standby) < 3


def test_a_leader_exits_when_its_lease_is_deleted(place, started):
    started.append(Management(place, "pod-a"))
    started[0].service.wait_ready()
    place.kubectl("delete", "lease", "lease")
    assert started[0].service.wait(timeout_s=LEASE_S) == 69
    assert place.kubectl("get", "leases", "--output", "name") == ""


def test_management_waits_for_a_missing_lease(place, started):
    place.kubectl("delete", "lease", "lease")
    started.append(Management(place, "pod-a"))
    started[0].wait_alive()
    eventually(lambda: "not found" in started[0].service.errors, what="it says what it waits for")
    place.new_lease()
    assert seconds_until_ready(started[0]) < 3


def test_a_missing_rule_of_the_role_is_named(place, started):
    started.append(Management(place, "pod-a", config=place.bare_config))
    assert started[0].service.wait() == 1
    assert re.search(
        r"skysail-management: 'system:serviceaccount:.*:bare' may not get "
        r"leases.coordination.k8s.io in namespace '.*': a role must allow it",
        started[0].service.errors,
    )


@contextmanager
def kubectl_proxy(place: Place) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run `kubectl proxy` inside the block."""
    command = ["kubectl", "--kubeconfig", str(place.config), "proxy", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert select.select([process.stdout], [], [], 20)[0]
            line = process.stdout.readline().decode()
            yield process, line.rpartition(" ")[2].strip()
        finally:
            process.kill()
