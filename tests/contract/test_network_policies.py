"""Reachability under the shipped network policies, tried from inside pods."""

import itertools
import json
import time

import pytest

from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.kubernetes.overlay import cluster_objects
from skysail_common.kubernetes.labels import COMPONENT, labels
from skysail_testing.kubernetes_clusters import IMAGE, kubernetes_cluster
from skysail_testing.manifests import Manifests

pytestmark = pytest.mark.kubernetes

COMPONENTS = ("management", "frontend", "store", "model-server", "installer")
OTHER = "other"
"""A foreign pod in the same namespace."""
EVERYBODY = (*COMPONENTS, OTHER)
PORTS = (6379, 8000, 8001, 8002, 8003, 8005, 8006)
KUBERNETES = ("kubernetes", 443)

REACHED = {
    ("frontend", "management", 8003),
    ("frontend", "model-server", 8005),
    ("management", "model-server", 8005),
    ("management", "store", 6379),
    ("model-server", "management", 8006),
    *itertools.product(("management", "installer", OTHER), ("frontend",), (8000, 8001, 8002)),
    *((each, *KUBERNETES) for each in ("management", "installer", OTHER)),
}

LISTEN = f"""
import selectors, socket
ready = selectors.DefaultSelector()
for port in {PORTS}:
    ready.register(socket.create_server(("0.0.0.0", port)), selectors.EVENT_READ)
while True:
    for key, _ in ready.select():
        key.fileobj.accept()[0].close()
"""
DIAL = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def is_reached(target):
    try:
        socket.create_connection((target[1], target[2]), timeout=2).close()
    except OSError:
        return False
    return True
targets = json.loads(sys.argv[1])
with ThreadPoolExecutor(64) as threads:
    print(json.dumps([[t[0], t[2]] for t, yes in zip(targets, threads.map(is_reached, targets)) if yes]))
"""


def probe(name: str, ports: list[dict]) -> dict:
    own = labels("default", name) if name != OTHER else {"app.kubernetes.io/name": "another"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": own},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "probe",
                    "image": IMAGE,
                    "command": ["python", "-c", LISTEN],
                    "ports": ports,
                }
            ],
        },
    }


def test_pods_reach_only_what_they_need():
    kubernetes = kubernetes_cluster()
    namespace = kubernetes.new_namespace()
    shipped = Manifests(cluster_objects(KubernetesOptions(namespace=namespace)))
    # Policies name ports as the workloads do.
    ports = {
        each["metadata"]["labels"][COMPONENT]: each["spec"]["template"]["spec"]["containers"][0]
        for each in shipped.workloads()
    }
    pods = [probe(name, ports.get(name, {}).get("ports", [])) for name in EVERYBODY]
    bundle = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [*shipped.all("NetworkPolicy"), *pods],
    }
    where = ("--namespace", namespace)
    kubernetes.kubectl("apply", *where, "--filename", "-", stdin=json.dumps(bundle))
    kubernetes.kubectl("wait", *where, "--for=condition=Ready", "pod", "--all", "--timeout=90s")
    addresses = {
        each["metadata"]["name"]: each["status"]["podIP"]
        for each in kubernetes.json("get", "pods", *where)["items"]
    }
    service = kubernetes.json("get", "service", "kubernetes", "--namespace", "default")

    def reached() -> set[tuple[str, str, int]]:
        found = set()
        for name in EVERYBODY:
            targets = [
                (other, addresses[other], port)
                for other in EVERYBODY
                for port in PORTS
                # A pod always reaches itself.
                if other != name
            ]
            targets.append((KUBERNETES[0], service["spec"]["clusterIP"], KUBERNETES[1]))
            command = ["exec", *where, name, "--", "python", "-c", DIAL, json.dumps(targets)]
            answer = json.loads(kubernetes.kubectl(*command))
            found |= {(name, other, port) for other, port in answer}
        # No policy selects the foreign pod, so ingress to it proves nothing.
        return {each for each in found if each[1] != OTHER}

    until = time.monotonic() + 30
    while (found := reached()) != REACHED and time.monotonic() < until:
        # Kubernetes applies policies after the pods start.
        time.sleep(0.5)
    assert found == REACHED
