"""Objects of a cluster `blue` on Kubernetes, for unit tests of `skysail up` and `down`."""

from collections.abc import Callable

from skysail.clusters.kubernetes.cluster_record import ClusterRecord
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.kubernetes.services import KubernetesServices
from skysail_common.kubernetes.kinds import Object
from skysail_common.kubernetes.labels import LEADER, labels

OPTIONS = KubernetesOptions("skysail", "blue")


def thing(kind: str, name: str, component: str = "", **content: object) -> Object:
    metadata = {"name": name, "labels": labels("blue", component)}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def service(component: str, *ports: int, **spec: object) -> Object:
    each = [{"port": port, "nodePort": 30000 + port} for port in ports]
    name = f"skysail-{component}-blue"
    return thing("Service", name, component, spec={"clusterIP": "10.43.0.9", "ports": each, **spec})


def node(name: str, **addresses: str) -> Object:
    each = [{"type": kind, "address": address} for kind, address in addresses.items()]
    return thing("Node", name, status={"addresses": each})


def service_pod(component: str, is_ready: bool = True, is_leader: bool = False) -> Object:
    status = {"conditions": [{"type": "Ready", "status": str(is_ready)}]}
    spec = {"containers": [{"name": component}]}
    pod = thing("Pod", f"{component}-0", component, status=status, spec=spec)
    if is_leader:
        pod["metadata"]["labels"][LEADER] = "true"
    return pod


async def started(
    *objects: Object, progress: Callable[[str], None] = lambda line: None
) -> ClusterRecord:
    """Start a cluster as `skysail up` does, and return its note."""
    services = KubernetesServices(OPTIONS)
    await services.open()
    note = await services.claim(progress)
    await services.start(objects, progress)
    return note
