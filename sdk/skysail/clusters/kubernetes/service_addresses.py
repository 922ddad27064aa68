"""Addresses of the Services of a cluster: in the cluster, of a node, or of a load balancer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from skysail.clusters.options import ClusterEndpoints
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotAllowed
from skysail_common.kubernetes.kinds import SERVICE, Kind, Object
from skysail_common.kubernetes.labels import COMPONENT
from skysail_common.process.sockets import join_host_port

_BALANCER_CHECK_S, _BALANCER_CHECKS = 2.0, 30
_DIAL_TIMEOUT_S = 1.0
_NODE = Kind("v1", "Node")
_PORTS = {"management": 8003, "grpc": 8001, "http": 8000, "metrics": 8002}


@dataclass(frozen=True)
class ServiceAddress:
    """The address of a Service."""

    kind: str
    """`ClusterIP`, `NodePort` or `LoadBalancer`."""
    host: str
    """Empty while the Service has no address."""
    ports: dict[int, int]
    """Port to connect to, by the port of the Service."""
    has_tls: bool = False
    """True if the HTTP port has the protocol https, as with the component `tls`."""


async def find_service_addresses(
    api: KubernetesApi, labels: Mapping[str, str]
) -> dict[str, ServiceAddress]:
    """Return the addresses of `management` and `frontend`."""
    found = {}
    for service in await api.list(SERVICE, labels):
        component = service["metadata"]["labels"].get(COMPONENT, "")
        if service["spec"].get("clusterIP") == "None":
            continue
        found[component] = await _address(api, service)
    return found


async def _address(api: KubernetesApi, service: Object) -> ServiceAddress:
    spec = service["spec"]
    kind = spec.get("type", "ClusterIP")
    field = "nodePort" if kind == "NodePort" else "port"
    ports = {each["port"]: each.get(field, each["port"]) for each in spec["ports"]}
    has_tls = any(each.get("appProtocol") == "https" for each in spec["ports"])
    if kind == "NodePort":
        host = await _node_address(api)
    elif kind == "LoadBalancer":
        ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
        host = ingress[0].get("ip") or ingress[0].get("hostname", "") if ingress else ""
    else:
        host = spec["clusterIP"]
    return ServiceAddress(kind, host, ports, has_tls)


async def _node_address(api: KubernetesApi) -> str:
    try:
        nodes = await api.list(_NODE, {})
    except NotAllowed:
        return ""
    for kind in ("ExternalIP", "InternalIP"):
        for node in nodes:
            for address in node["status"].get("addresses", ()):
                if address["type"] == kind:
                    return str(address["address"])
    return ""


async def find_endpoints(api: KubernetesApi, labels: Mapping[str, str]) -> ClusterEndpoints:
    """Return the endpoints of the cluster; an endpoint that this machine cannot reach is empty.

    The function waits up to a minute for the address of a load balancer.
    """
    addresses = await find_service_addresses(api, labels)
    for _ in range(_BALANCER_CHECKS):
        if all(address.host or address.kind != "LoadBalancer" for address in addresses.values()):
            break
        await asyncio.sleep(_BALANCER_CHECK_S)
        addresses = await find_service_addresses(api, labels)

    async def endpoint(name: str) -> str:
        address = addresses.get("management" if name == "management" else "frontend")
        if address is None or _PORTS[name] not in address.ports or not address.host:
            return ""
        found = join_host_port(address.host, address.ports[_PORTS[name]])
        # Outside of the cluster, a cluster IP may belong to another host or to none.
        is_here = address.kind != "ClusterIP" or await _is_reached(address.host, _PORTS[name])
        return found if is_here else ""

    has_tls = "frontend" in addresses and addresses["frontend"].has_tls
    endpoints = {name: await endpoint(name) for name in _PORTS}
    return ClusterEndpoints(**endpoints, scheme="https" if has_tls else "http")


async def _is_reached(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _DIAL_TIMEOUT_S)
    except (OSError, asyncio.TimeoutError):
        return False
    writer.close()
    return True
