import asyncio

import pytest

from skysail.clusters.kubernetes import service_addresses
from skysail.clusters.kubernetes.service_addresses import (
    ServiceAddress,
    find_endpoints,
    find_service_addresses,
)
from skysail.clusters.options import ClusterEndpoints
from skysail_common.kubernetes.errors import NotAllowed
from skysail_common.kubernetes.kinds import (
    SERVICE,
)
from skysail_common.kubernetes.labels import labels
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_services import node, service
from skysail_testing.virtual_time import settle, virtual_time

OWN = labels("blue")


@virtual_time
async def test_a_service_within_the_cluster(api: FakeKubernetesApi):
    api.add(service("frontend", 8000, 8001))
    assert await find_service_addresses(api, OWN) == {
        "frontend": ServiceAddress("ClusterIP", "10.43.0.9", {8000: 8000, 8001: 8001})
    }


@virtual_time
async def test_a_service_without_an_address_is_no_address(api: FakeKubernetesApi):
    api.add(service("store", 6379, clusterIP="None"))
    assert await find_service_addresses(api, OWN) == {}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ([{"InternalIP": "10.0.0.1", "Hostname": "one"}], "10.0.0.1"),
        ([{"InternalIP": "10.0.0.1"}, {"ExternalIP": "192.0.2.7"}], "192.0.2.7"),
        ([{"Hostname": "one"}], ""),
        ([], ""),
    ],
)
@virtual_time
async def test_a_service_on_the_nodes(
    api: FakeKubernetesApi, nodes: list[dict[str, str]], host: str
):
    api.add(service("frontend", 8000, type="NodePort"))
    for index, addresses in enumerate(nodes):
        api.add(node(f"node-{index}", **addresses))
    assert await find_service_addresses(api, OWN) == {
        "frontend": ServiceAddress("NodePort", host, {8000: 38000})
    }


@virtual_time
async def test_a_role_without_nodes_gets_ports_without_a_host(api: FakeKubernetesApi):
    api.add(service("frontend", 8000, type="NodePort"))
    api.errors["list", "Node"] = [NotAllowed("'jo' may not list nodes")]
    assert await find_service_addresses(api, OWN) == {
        "frontend": ServiceAddress("NodePort", "", {8000: 38000})
    }


@pytest.mark.parametrize(
    ("ingress", "host"),
    [
        ([{"ip": "192.0.2.7"}], "192.0.2.7"),
        ([{"hostname": "lb.example"}], "lb.example"),
        ([], ""),
    ],
)
@virtual_time
async def test_a_service_behind_a_load_balancer(
    api: FakeKubernetesApi, ingress: list[dict[str, str]], host: str
):
    made = service("frontend", 8000, type="LoadBalancer")
    api.add({**made, "status": {"loadBalancer": {"ingress": ingress}}})
    assert await find_service_addresses(api, OWN) == {
        "frontend": ServiceAddress("LoadBalancer", host, {8000: 8000})
    }


@virtual_time
async def test_a_load_balancer_is_waited_for(api: FakeKubernetesApi):
    made = service("frontend", 8000, type="LoadBalancer")
    api.add(made)
    endpoints = asyncio.create_task(find_endpoints(api, OWN))
    await settle()
    assert not endpoints.done()
    name = made["metadata"]["name"]
    api.change(SERVICE, name, status={"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}})
    assert (await endpoints).http == "192.0.2.7:8000"
    api.change(SERVICE, name, status={})
    assert (await find_endpoints(api, OWN)).http == ""


@virtual_time
async def test_endpoints_are_those_that_this_machine_reaches(api: FakeKubernetesApi, monkeypatch):
    dialled = []

    async def is_reached(host: str, port: int) -> bool:
        dialled.append((host, port))
        return False

    monkeypatch.setattr(service_addresses, "_is_reached", is_reached)
    api.add(service("management", 8003))
    api.add(service("frontend", 8000, 8001, type="NodePort"))
    api.add(node("one", InternalIP="10.0.0.1"))
    endpoints = await find_endpoints(api, OWN)
    assert endpoints == ClusterEndpoints("", "10.0.0.1:38001", "10.0.0.1:38000", "")
    assert dialled == [("10.43.0.9", 8003)]


@virtual_time
async def test_frontends_that_speak_tls_are_reached_by_https(api: FakeKubernetesApi):
    api.add(node("one", InternalIP="10.0.0.1"))
    made = service("frontend", 8000, 8001, type="NodePort")
    api.add(made)
    assert (await find_endpoints(api, OWN)).scheme == "http"
    made["spec"]["ports"][0]["appProtocol"] = "https"
    api.add(made)
    assert (await find_service_addresses(api, OWN))["frontend"].has_tls
    assert (await find_endpoints(api, OWN)).scheme == "https"
