"""A Skysail cluster on Kubernetes, started by the command line as a user starts it."""

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import skysail
from skysail.settings import CLUSTER_FILE
from skysail_common.kubernetes.labels import LEADER, labels
from skysail_common.kubernetes.pod_problems import condition_of
from skysail_testing.commands import skysail_command
from skysail_testing.kubernetes_clusters import kubernetes_cluster

VOLUMES = Path("/var/lib/skysail")
"""Directory of the node for the volumes of the local overlay."""


@dataclass
class OnKubernetes:
    """A running cluster, with its pods and kubectl."""

    data_dir: Path
    namespace: str
    name: str
    management: str
    grpc: str
    http: str

    def client(self) -> skysail.Client:
        return skysail.Client(self.management, query_endpoint=self.grpc)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        where = ("--namespace", self.namespace)
        return kubernetes_cluster().kubectl(*where, *arguments, stdin=stdin)

    def json(self, *arguments: str) -> dict:
        return json.loads(self.kubectl(*arguments, "--output", "json"))

    def pods(self, component: str, **more: str) -> list[dict]:
        """Return the pods of a component that are not terminating."""
        wanted = {**labels(self.name, component), **more}
        selector = ",".join(f"{key}={value}" for key, value in wanted.items())
        found = self.json("get", "pods", "--selector", selector)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod_names(self, component: str) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.pods(component)}

    def ready_pods(self, component: str) -> list[dict]:
        return [
            pod
            for pod in self.pods(component)
            if condition_of(pod["status"], "Ready").get("status") == "True"
        ]

    def leaders(self) -> set[str]:
        """Return the pods of management with the label of a leader."""
        found = self.pods("management")
        return {pod["metadata"]["name"] for pod in found if LEADER in pod["metadata"]["labels"]}

    def run_in(self, pod: str, program: str, *arguments: str) -> str:
        """Run a Python program in the first container of a pod; return its output."""
        return self.kubectl("exec", pod, "--", "python", "-c", program, *arguments)

    def may(self, account: str, namespace: str) -> dict[str, set[str]]:
        """Return the verbs that a service account of the cluster may use in a namespace, by resource."""
        user = f"system:serviceaccount:{self.namespace}:{account}"
        review = {
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }  # fmt: skip
        answer = self.kubectl(
            "create", "--raw", _REVIEW, "--as", user, "--filename", "-", stdin=json.dumps(review)
        )
        found: dict[str, set[str]] = {}
        for rule in json.loads(answer)["status"]["resourceRules"]:
            for resource in set(rule["resources"]) - _ANYBODY_MAY:
                found.setdefault(resource, set()).update(rule["verbs"])
        return found

    def evict(self, pod: str) -> bool:
        """Evict a pod, as a drain of its node does; return False if its budget forbids it."""
        eviction = {
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }  # fmt: skip
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        try:
            self.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(eviction))
        except AssertionError as error:
            if "disruption budget" in str(error):
                return False
            raise
        return True


_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
_ANYBODY_MAY = {"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}


def new_name() -> str:
    """Return a unique name for a namespace."""
    return f"skt-{secrets.token_hex(4)}"


def flags(data_dir: Path, namespace: str, name: str = "default") -> list[str]:
    """Return the flags of `skysail up` for a cluster."""
    return [
        "--data-dir", str(data_dir), "--container-manager", "kubernetes",
        "--namespace", namespace, "--cluster", name,
    ]  # fmt: skip


@contextmanager
def skysail_on_kubernetes(
    data_dir: Path, namespace: str, name: str = "default", *, keeps_data: bool = False
) -> Iterator[OnKubernetes]:
    """Run a cluster inside the `with` block on the Kubernetes of KUBECONFIG.

    Args:
        data_dir: Directory for the note of the cluster.
        namespace: Namespace of the cluster, created if it is missing.
        name: Name of the cluster.
        keeps_data: Keep claims, Secrets and the content of volumes for the next cluster.
    """
    try:
        started = skysail_command("up", *flags(data_dir, namespace, name))
        assert started.returncode == 0, started.stderr
        endpoints = json.loads((data_dir / CLUSTER_FILE).read_text())
        del endpoints["scheme"]
        yield OnKubernetes(data_dir, namespace, name, **endpoints)
    finally:
        more = [] if keeps_data else ["--delete-data"]
        stopped = skysail_command("down", "--data-dir", str(data_dir), "--yes", *more)
        if not keeps_data:
            shutil.rmtree(VOLUMES / namespace / name, ignore_errors=True)
            with suppress(OSError):
                # The directory also has the volumes of other clusters in the namespace.
                (VOLUMES / namespace).rmdir()
    assert stopped.returncode == 0, stopped.stderr


def named_after(namespace: str) -> list[str]:
    """Return the cluster-wide objects whose names contain a namespace, including itself."""
    cluster = kubernetes_cluster()
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced=false", "--output=name")
    found = cluster.kubectl("get", ",".join(kinds.split()), "--output=name")
    return [name for name in found.split() if namespace in name]


def objects_in(namespace: str) -> set[str]:
    """Return all objects in a namespace except events and metrics."""
    cluster = kubernetes_cluster()
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "--output=name")
    reports = ("events", "events.events.k8s.io", "pods.metrics.k8s.io")
    wanted = ",".join(kind for kind in kinds.split() if kind not in reports)
    found = cluster.kubectl("get", wanted, "--namespace", namespace, "--output=name")
    return set(found.split())
