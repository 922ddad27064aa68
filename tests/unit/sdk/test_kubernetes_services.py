import asyncio
import base64
import json

import pytest

from skysail.supervisor import kubernetes_services
from skysail.supervisor.kubernetes_options import KubernetesOptions
from skysail.supervisor.kubernetes_registry import log_in, secret_name, with_pull_secret
from skysail.supervisor.kubernetes_services import Door, KubernetesServices
from skysail.supervisor.options import ClusterEndpoints
from skysail_common.child import StartFailed
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes_errors import ClusterRefused, NotAllowed
from skysail_common.kubernetes_kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NAMESPACE,
    POD,
    SECRET,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
    Object,
)
from skysail_common.kubernetes_labels import LEADER, labels
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.virtual_time import settle, virtual_time

OPTIONS = KubernetesOptions("skysail", "blue")
NODE = Kind("v1", "Node")


@pytest.fixture
def api(monkeypatch) -> FakeKubernetesApi:
    made = FakeKubernetesApi()
    monkeypatch.setattr(KubernetesOptions, "api", lambda self: made)
    return made


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


@virtual_time
async def test_a_service_within_the_cluster(api: FakeKubernetesApi):
    api.add(service("frontend", 8000, 8001))
    doors = await KubernetesServices(OPTIONS).doors()
    assert doors == {"frontend": Door("ClusterIP", "10.43.0.9", {8000: 8000, 8001: 8001})}


@virtual_time
async def test_a_service_without_an_address_is_no_door(api: FakeKubernetesApi):
    api.add(service("store", 6379, clusterIP="None"))
    assert await KubernetesServices(OPTIONS).doors() == {}


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
    services = KubernetesServices(OPTIONS)
    assert await services.doors() == {"frontend": Door("NodePort", host, {8000: 38000})}


@virtual_time
async def test_who_may_not_see_nodes_has_ports_without_a_host(api: FakeKubernetesApi):
    api.add(service("frontend", 8000, type="NodePort"))
    api.errors["list", "Node"] = [NotAllowed("'jo' may not list nodes")]
    doors = await KubernetesServices(OPTIONS).doors()
    assert doors == {"frontend": Door("NodePort", "", {8000: 38000})}


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
    doors = await KubernetesServices(OPTIONS).doors()
    assert doors == {"frontend": Door("LoadBalancer", host, {8000: 8000})}


@virtual_time
async def test_a_load_balancer_is_waited_for(api: FakeKubernetesApi):
    made = service("frontend", 8000, type="LoadBalancer")
    api.add(made)
    endpoints = asyncio.create_task(KubernetesServices(OPTIONS).endpoints())
    await settle()
    assert not endpoints.done()
    name = made["metadata"]["name"]
    api.change(SERVICE, name, status={"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}})
    assert (await endpoints).http == "192.0.2.7:8000"
    api.change(SERVICE, name, status={})
    assert (await KubernetesServices(OPTIONS).endpoints()).http == ""


@virtual_time
async def test_endpoints_are_those_that_are_reached(api: FakeKubernetesApi, monkeypatch):
    dialled = []

    async def is_reached(host: str, port: int) -> bool:
        dialled.append((host, port))
        return False

    monkeypatch.setattr(kubernetes_services, "_is_reached", is_reached)
    api.add(service("management", 8003))
    api.add(service("frontend", 8000, 8001, type="NodePort"))
    api.add(node("one", InternalIP="10.0.0.1"))
    endpoints = await KubernetesServices(OPTIONS).endpoints()
    assert endpoints == ClusterEndpoints("", "10.0.0.1:38001", "10.0.0.1:38000", "")
    assert dialled == [("10.43.0.9", 8003)]


@virtual_time
async def test_a_store_has_a_password_that_stays(api: FakeKubernetesApi):
    services = KubernetesServices(OPTIONS)
    secret = thing("Secret", "skysail-store-blue", "store", data={"user": "dQ=="})
    first = await services._with_content(secret)
    assert len(first["stringData"]["password"]) == 48
    assert first["data"] == {"user": "dQ=="}
    again = await services._with_content(secret)
    assert again["stringData"] != first["stringData"]
    # As Kubernetes keeps it.
    api.add({**secret, "data": {"user": "dQ==", "password": "cA==", "more": "bQ=="}})
    kept = await services._with_content(secret)
    assert "stringData" not in kept
    assert kept["data"] == {"user": "dQ==", "password": "cA==", "more": "bQ=="}


@virtual_time
async def test_another_secret_has_what_it_holds_and_what_is_new(api: FakeKubernetesApi):
    secret = thing("Secret", "skysail-tls-blue", "frontend", data={"key": "bmV3"})
    assert await KubernetesServices(OPTIONS)._with_content(secret) == secret
    api.add({**secret, "data": {"key": "b2xk", "certificate": "Y2VydA=="}})
    made = await KubernetesServices(OPTIONS)._with_content(secret)
    assert made["data"] == {"key": "bmV3", "certificate": "Y2VydA=="}


@virtual_time
async def test_up_applies_everything_and_waits_until_one_leads(api: FakeKubernetesApi):
    services = KubernetesServices(OPTIONS)
    lines: list[str] = []
    objects = [
        thing("ServiceAccount", "skysail-management-blue", "management"),
        thing("Secret", "skysail-store-blue", "store"),
        thing("PersistentVolume", "volume", "store", spec={}),
    ]
    api.add(service_pod("management", is_ready=False))
    start = asyncio.create_task(services.start(objects, lines.append))
    await settle()
    assert lines == ["namespace skysail is made", "3 objects are applied in namespace skysail"]
    api.add(service_pod("management"))
    await settle()
    assert not start.done()
    api.add(service_pod("management", is_leader=True))
    await start
    assert lines[2:] == ["management-0: ready"]
    anchor = api.objects[CONFIG_MAP, "skysail-blue"]["metadata"]["uid"]
    for kind, name in [
        (SERVICE_ACCOUNT, "skysail-management-blue"),
        (SECRET, "skysail-store-blue"),
    ]:
        (owner,) = api.objects[kind, name]["metadata"]["ownerReferences"]
        assert owner["uid"] == anchor
    volume = api.objects[Kind("v1", "PersistentVolume"), "volume"]
    assert "ownerReferences" not in volume["metadata"]


@virtual_time
async def test_up_waits_for_as_many_frontends_as_there_shall_be(api: FakeKubernetesApi):
    deployment = thing("Deployment", "skysail-frontend-blue", "frontend", spec={"replicas": 1})
    deployment["spec"]["selector"] = {"matchLabels": {"of": "nobody"}}
    deployment["metadata"]["generation"] = 1
    api.has_controllers = False
    api.add({**deployment, "apiVersion": "apps/v1"})
    api.add(service_pod("management", is_leader=True))
    start = asyncio.create_task(KubernetesServices(OPTIONS).start([], lambda line: None))
    await settle()
    assert not start.done()
    api.add(service_pod("frontend"))
    for status in ({"observedGeneration": 1}, {"updatedReplicas": 1}, {"readyReplicas": 1}):
        await settle()
        assert not start.done()
        found = api.objects[DEPLOYMENT, "skysail-frontend-blue"]
        api.change(
            DEPLOYMENT, "skysail-frontend-blue", status={**found.get("status", {}), **status}
        )
    await start


@virtual_time
async def test_pods_that_ended_for_good_or_end_are_not_waited_for(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    evicted = service_pod("frontend", is_ready=False)
    evicted["status"]["phase"] = "Failed"
    api.add(evicted)
    old = service_pod("store", is_ready=False)
    old["metadata"]["deletionTimestamp"] = "2026-11-20T10:05:00Z"
    api.add(old)
    await KubernetesServices(OPTIONS).start([], lambda line: None)


@virtual_time
async def test_a_job_that_cannot_be_changed_is_replaced(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    job = {**thing("Job", "skysail-directories-blue", "directories"), "apiVersion": "batch/v1"}
    api.add({**job, "spec": {"image": "wrong"}})
    api.errors["apply", "Job"] = [ClusterRefused("spec.template: field is immutable")]
    await KubernetesServices(OPTIONS).start(
        [{**job, "spec": {"image": "right"}}], lambda line: None
    )
    assert api.objects[Kind("batch/v1", "Job"), "skysail-directories-blue"]["spec"] == {
        "image": "right"
    }


@virtual_time
async def test_what_does_not_come_up_is_told_with_its_log(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    api.add(service_pod("frontend", is_ready=False))
    api.log_errors = [ClusterRefused("previous terminated container not found")]
    api.log_lines["frontend-0", "frontend", False] = [b"cannot listen"]
    with pytest.raises(StartFailed) as caught:
        await KubernetesServices(OPTIONS).start([], lambda line: None)
    assert caught.value.message == (
        "the cluster is not ready after 180 s\n  frontend-0: not ready\n      cannot listen"
    )


@virtual_time
async def test_what_kubernetes_does_not_take_is_named(api: FakeKubernetesApi):
    api.errors["apply", "Service"] = [ClusterRefused("spec.ports: Required value")]
    with pytest.raises(FailedPrecondition) as caught:
        await KubernetesServices(OPTIONS).start([service("frontend")], lambda line: None)
    assert caught.value.message == (
        "Service skysail-frontend-blue cannot be applied: spec.ports: Required value"
    )


@virtual_time
async def test_who_may_not_see_namespaces_works_in_one(api: FakeKubernetesApi):
    api.errors["get", "Namespace"] = [NotAllowed("'jo' may not get namespaces")]
    api.add(service_pod("management", is_leader=True))
    await KubernetesServices(OPTIONS).start([], lambda line: None)
    assert api.names(NAMESPACE) == []


@virtual_time
async def test_down_removes_all_and_the_namespace_that_up_made(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    services = KubernetesServices(OPTIONS)
    secret = thing("Secret", "skysail-store-blue", "store")
    await services.start([secret, service("frontend", 8000)], lambda line: None)
    for name, namespace in (("ours", "skysail"), ("theirs", "other")):
        volume = thing("PersistentVolume", name, spec={})
        volume["metadata"]["labels"]["skysail.ai/volumes"] = f"{namespace}.blue"
        api.add(volume)
    api.add(thing("PersistentVolumeClaim", "data", spec={}))
    # Its label is that of every namespace; the fake does not add it.
    api.objects[NAMESPACE, "skysail"]["metadata"]["labels"] = {
        "kubernetes.io/metadata.name": "skysail"
    }
    api.ends_pods = False
    remove = asyncio.create_task(services.remove())
    await settle()
    assert not remove.done(), "a pod still ends"
    api.end("management-0")
    assert await remove
    assert [name for _, name in api.objects] == ["theirs"]
    assert not await services.remove()


@virtual_time
async def test_down_leaves_what_others_need(api: FakeKubernetesApi):
    services = KubernetesServices(OPTIONS)
    api.add(service_pod("management", is_leader=True))
    await services.start([], lambda line: None)
    other = {"name": "skysail-green", "labels": labels("green")}
    api.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": other})
    api.remove(POD, "management-0")
    assert await services.remove()
    assert {name for _, name in api.objects} == {"skysail", "skysail-green"}


@virtual_time
async def test_down_tells_what_does_not_go(api: FakeKubernetesApi):
    api.add(thing("Pod", "stuck", "model-server", spec={}))
    api.ends_pods = False
    with pytest.raises(FailedPrecondition, match="namespace skysail is not gone after 120 s"):
        await KubernetesServices(OPTIONS).remove()


@virtual_time
async def test_a_pull_secret_is_what_nodes_understand(api: FakeKubernetesApi):
    account = thing("ServiceAccount", "skysail-model-server-blue", "model-server")
    api.add({**account, "imagePullSecrets": [{"name": "other"}]})
    foreign = thing("ServiceAccount", "default")
    foreign["metadata"]["labels"] = {}
    api.add(foreign)
    for password in ("first", "pa:ss"):
        patched = await log_in(OPTIONS, "registry.example:5000", "jo", password)
        assert patched == ["skysail-model-server-blue"]
    secret = api.objects[SECRET, secret_name(OPTIONS)]
    assert secret["metadata"]["name"] == "skysail-registry-blue"
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    assert secret["metadata"]["labels"] == labels("blue")
    content = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    assert content == {
        "auths": {
            "registry.example:5000": {
                "username": "jo",
                "password": "pa:ss",
                "auth": base64.b64encode(b"jo:pa:ss").decode(),
            }
        }
    }
    # A login at another registry is one more.
    await log_in(OPTIONS, "other.example", "jo", "p")
    secret = api.objects[SECRET, secret_name(OPTIONS)]
    content = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    assert set(content["auths"]) == {"registry.example:5000", "other.example"}
    found = api.objects[SERVICE_ACCOUNT, "skysail-model-server-blue"]
    assert found["imagePullSecrets"] == [{"name": "other"}, {"name": "skysail-registry-blue"}]
    assert "imagePullSecrets" not in api.objects[SERVICE_ACCOUNT, "default"]
    assert api.names(NAMESPACE) == ["skysail"]
    assert not api.is_open


@virtual_time
async def test_who_may_not_see_namespaces_logs_in_to_a_registry(api: FakeKubernetesApi):
    api.errors["get", "Namespace"] = [NotAllowed("'jo' may not get namespaces")]
    assert await log_in(OPTIONS, "registry.example", "jo", "p") == []
    assert api.names(SECRET) == ["skysail-registry-blue"]


@virtual_time
async def test_service_accounts_of_a_later_up_have_the_pull_secret(api: FakeKubernetesApi):
    account = thing("ServiceAccount", "a", "model-server", imagePullSecrets=[{"name": "own"}])
    assert await with_pull_secret(api, OPTIONS, account) == account
    await log_in(OPTIONS, "registry.example", "jo", "p")
    wanted = [{"name": "own"}, {"name": "skysail-registry-blue"}]
    made = await with_pull_secret(api, OPTIONS, account)
    assert made == {**account, "imagePullSecrets": wanted}
    assert await with_pull_secret(api, OPTIONS, made) == made
